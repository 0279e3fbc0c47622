"""Training takes nothing more of the host's memory as it goes on, nor of the compiler's time as the model deepens."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig, TrainConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import place_batch, single_device_mesh
from maxllm.train import loop
from maxllm.train.metrics import resident_bytes
from maxllm.train.state import abstract_state, create_state
from maxllm.train.step import make_train_step

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "num_kv_heads": 2}
OPTIMIZER = make_optimizer(OptimizerConfig(), ScheduleConfig(), 1000)
MESH = single_device_mesh()


def batch() -> Batch:
    ids = np.ones((4, 8), np.int32)
    return place_batch(
        Batch(ids, ids, ids, np.tile(np.arange(8, dtype=np.int32), (4, 1)), np.ones((4, 8), np.float32)), MESH
    )


def test_a_step_leaves_nothing_behind():
    model = ModelConfig(**SHAPE, num_layers=2, max_positions=8)
    structure, state = create_state(create(model, ComputeConfig(), MESH, 0), OPTIMIZER, MESH)
    step = make_train_step(structure, causal_lm, OPTIMIZER, MESH)
    for _ in range(2):
        state, _ = step(state, batch())
    counts, programs = [], step.compiled._cache_size()
    for _ in range(2):
        for _ in range(100):
            state, metrics = step(state, batch())
        jax.block_until_ready(metrics)
        del metrics
        gc.collect()
        counts.append((len(jax.live_arrays()), len(gc.get_objects())))
    assert counts[1][0] == counts[0][0]  # arrays
    assert counts[1][1] - counts[0][1] < 50  # Python objects; one a step would be 100
    assert step.compiled._cache_size() == programs


@pytest.mark.parametrize(
    "saves", [pytest.param(8), pytest.param(60, marks=pytest.mark.slow)], ids=["8 saves", "60 saves"]
)
def test_memory_is_flat_over_saves(saves: int, configured: Callable[..., TrainConfig]):
    """The process's resident memory over the last saves, as metrics.jsonl has it: under 0.2 MB a save."""
    config = configured(train={"steps": 2 * saves, "log_every": 2, "checkpoint_every": 2, "keep_checkpoints": 2})
    loop.train(config)
    records = [json.loads(line) for line in (Path(config.train.run_dir) / "metrics.jsonl").read_text().splitlines()]
    memory = [record["host_memory_bytes"] for record in records if "host_memory_bytes" in record]
    settled = np.array(memory[max(4, saves // 6) :], float)
    assert len(settled) >= min(saves - 4, 50)
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    print(f"{slope / 1e3:.0f} kB a save over {len(settled)} saves, {resident_bytes() / 1e6:.0f} MB")
    assert slope < (2e5 if saves > 50 else 3e6)


def program(layers: int) -> str:
    structure, parameters = abstract(
        ModelConfig(**SHAPE, num_layers=layers, max_positions=8), ComputeConfig(remat="full")
    )
    step = make_train_step(structure, causal_lm, OPTIMIZER, MESH, accumulation_steps=2)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch())
    return step.lower(abstract_state(parameters, OPTIMIZER, MESH), shapes).as_text()


def test_the_program_does_not_grow_with_depth():
    """Its text, which the compiler's time follows: but for the numbers in it, that of 4 layers is that of 32."""
    few, many = program(4), program(32)
    assert abs(len(many) - len(few)) < 0.01 * len(few)
    assert many.count("\n") == few.count("\n")
