"""DoReMi in the train step and in a run: the same weights on any layout, stopped or not, and a mixture file out."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from flax import nnx

from maxllm.batch import Batch
from maxllm.config import resolve
from maxllm.config.errors import UserError
from maxllm.config.train import (
    ComputeConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from maxllm.models import create
from maxllm.objectives import causal_lm, doremi
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.train import loop
from maxllm.train.doremi import make_adapt
from maxllm.train.metrics import read
from maxllm.train.state import create_state
from maxllm.train.step import make_train_step

Configured = Callable[..., TrainConfig]
NAMES = ["easy", "hard", "middle"]
ROWS, LENGTH, VOCAB = 32, 12, 64
SHAPE = {"num_layers": 1, "num_heads": 4, "num_kv_heads": 4, "vocab_size": VOCAB, "max_positions": LENGTH}


def rows() -> Batch:
    """Three domains in uneven numbers, weights that differ from token to token."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    domains = generator.choice([0, 1, 1, 1, 2], (ROWS, 1)).astype(np.int32)
    tokens[domains[:, 0] == 0] %= 4
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    weights = generator.choice([0.0, 0.5, 1.0], (ROWS, LENGTH)).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones_like(positions), positions, weights, domains)


def three_steps(axes: dict[str, int], accumulation_steps: int):
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    mesh = make_mesh(MeshConfig(**{"data": 1, "fsdp": 1, "tensor": 1} | axes), devices)
    optimizer = make_optimizer(OptimizerConfig(eps=1e-3, learning_rate=1e-2), ScheduleConfig(), 10)
    compute = ComputeConfig(dtype="float32")
    proxy = create(ModelConfig(hidden_size=32, intermediate_size=48, **SHAPE), compute, mesh, seed=0)
    reference = create(ModelConfig(hidden_size=16, intermediate_size=32, **SHAPE), compute, mesh, seed=1)
    reference_structure, frozen = nnx.split(reference)
    structure, state = create_state(proxy, optimizer, mesh, doremi.initial(3))
    adapt = make_adapt(structure, reference_structure, NAMES, ObjectiveConfig(step_size=5.0), accumulation_steps)
    step = make_train_step(
        structure, causal_lm, optimizer, mesh, accumulation_steps=accumulation_steps, adapt=adapt, frozen=frozen
    )
    batch = place_batch(rows(), mesh)
    for _ in range(3):
        state, metrics = step(state, batch)
    return jax.device_get((state.objective, state.parameters)), {name: float(v) for name, v in metrics.items()}


@functools.cache
def one_device():
    return three_steps({}, 1)


@pytest.mark.parametrize(
    ("axes", "accumulation_steps"),
    [
        ({}, 4),
        ({"data": 2, "fsdp": 2, "tensor": 2}, 4),
        pytest.param({"data": 8}, 1, marks=pytest.mark.slow),
        pytest.param({"fsdp": 8}, 2, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_accumulation_and_layout_change_nothing(axes: dict[str, int], accumulation_steps: int) -> None:
    (weights, parameters), metrics = one_device()
    (found, same), also = three_steps(axes, accumulation_steps)
    assert weights.now.max() - weights.now.min() > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), same, parameters)
    assert also == pytest.approx(metrics, rel=1e-4)
    assert metrics["weight"] == rows().weights.sum()
    assert metrics["domain_weight/easy"] == pytest.approx(float(weights.now[0]))


@pytest.fixture(scope="module")
def reference(domains, base_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    tree = {
        **base_settings,
        "data": {**base_settings["data"], "sources": weighted(domains)},
        "train": {"steps": 12, "run_dir": str(folder), "checkpoint_every": 6},
    }
    loop.train(resolve(TrainConfig, tree=tree).config)
    return folder


def weighted(domains) -> dict[str, dict[str, Any]]:
    """The baseline mixture."""
    return {name: {**source, "weight": {"easy": 2, "middle": 1, "hard": 1}[name]} for name, source in domains.items()}


def proxy_of(configured: Configured, domains, reference: Path, **train: Any) -> TrainConfig:
    return configured(
        data={"sources": weighted(domains), "sequence_length": 32, "batch_size": 8},
        objective={"name": "doremi", "reference": str(reference), "step_size": 2.0},
        train={"steps": 12, "checkpoint_every": 6, "eval_batches": 1, **train},
        schedule={"warmup_steps": 0},
    )


def test_a_proxy_writes_a_mixture_that_a_run_begins_from(
    configured: Configured, domains, reference: Path, tmp_path: Path
) -> None:
    config = proxy_of(configured, domains, reference)
    last = loop.train(config)
    run = Path(config.train.run_dir)
    report = json.loads((run / "doremi.json").read_text())
    mixture = yaml.safe_load((run / "mixture.yml").read_text())["data"]["sources"]
    assert {name: source["weight"] for name, source in mixture.items()} == report["weights"]
    assert sum(report["weights"].values()) == pytest.approx(1, abs=1e-5)
    assert report["baseline"] == {"easy": 0.5, "middle": 0.25, "hard": 0.25}
    assert [entry["step"] for entry in report["trajectory"]] == list(range(1, 13))
    for name in domains:
        steps = [entry["domain_weight"][name] for entry in report["trajectory"]]
        assert report["weights"][name] == pytest.approx(np.mean(steps), abs=1e-5)
        assert last[f"domain_weight/{name}"] == pytest.approx(steps[-1], abs=1e-5)
    # Rows come from all domains alike, whatever the baseline.
    data = json.loads((run / "data.json").read_text())
    assert data["phases"][0]["shares"] == pytest.approx(dict.fromkeys(NAMES, 1 / 3), abs=1e-6)

    # It is a `base:`; and a run that was killed after its last save writes it all the same.
    (run / "mixture.yml").rename(tmp_path / "mixture.yml")
    main = resolve(TrainConfig, tmp_path / "mixture.yml").config
    assert {name: source.weight for name, source in main.data.sources.items()} == report["weights"]
    assert loop.train(config) == last
    assert (run / "mixture.yml").read_text() == (tmp_path / "mixture.yml").read_text()


def test_stopped_in_the_middle_it_goes_on_to_the_same_weights(configured: Configured, domains, reference: Path) -> None:
    config = proxy_of(configured, domains, reference)
    loop.train(config)
    run = Path(config.train.run_dir)

    def left_behind() -> tuple[Any, ...]:
        meta = json.loads((run / "checkpoints" / "12" / "meta" / "metadata").read_text())
        curve = [
            {key: value for key, value in record.items() if "domain_" in key or "loss" in key}
            for record in read(run / "metrics.jsonl")
        ]
        return meta["fingerprints"], curve, (run / "doremi.json").read_text()

    wanted = left_behind()
    assert {"objective/now", "objective/average", "objective/excess"} < wanted[0].keys()
    shutil.rmtree(run / "checkpoints" / "12")
    loop.train(config)
    assert left_behind() == wanted


def test_another_reference_is_another_run(configured: Configured, domains, reference: Path, tmp_path: Path) -> None:
    loop.train(proxy_of(configured, domains, reference, steps=2))
    with pytest.raises(UserError, match="the contents of reference changed"):
        loop.train(proxy_of(configured, domains, reference / "checkpoints" / "6", steps=3))


def test_mistakes_are_one_sentence(configured: Configured, domains, tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="objective.reference is not set"):
        configured(objective={"name": "doremi"})
    with pytest.raises(UserError, match="cannot go with data.phases"):
        configured(data={"sources": domains, "phases": [{"until": 1}]}, objective={"name": "doremi", "reference": "x"})
    with pytest.raises(UserError, match="neither a run directory"):
        loop.train(proxy_of(configured, domains, tmp_path / "absent"))
    with pytest.raises(UserError, match="data.sources has one source"):
        configured(objective={"name": "doremi", "reference": str(tmp_path)})
