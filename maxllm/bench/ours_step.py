"""Our train step as a measured program: python -m maxllm.bench.ours_step CONFIG.json"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxllm.batch import Batch
from maxllm.bench.program import serve
from maxllm.config.train import DataConfig, TrainConfig
from maxllm.data.corruption import example
from maxllm.models import count_parameters, create
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout
from maxllm.train.assembly import assemble, train_step
from maxllm.train.metrics import resident_bytes
from maxllm.train.state import create_state


def packed_batch(data: DataConfig, vocab_size: int, seed: int = 0) -> Batch:
    """Rows of documents of 1 token to a whole row, a quarter of one on average, as packing makes them."""
    generator = np.random.default_rng(seed)
    shape = (data.batch_size, data.sequence_length)
    tokens = generator.integers(0, vocab_size, (shape[0], shape[1] + 1)).astype(np.int32)
    begins = generator.random(shape) < 4 / data.sequence_length
    begins[:, 0] = True
    segment_ids = np.cumsum(begins, axis=1).astype(np.int32)
    starts = np.maximum.accumulate(np.where(begins, np.arange(shape[1]), 0), axis=1)
    positions = (np.arange(shape[1]) - starts).astype(np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, np.ones(shape, np.float32))


def peak_memory() -> int:
    """Bytes: the most a device held; on a CPU, what the process holds."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resident_bytes()


def main(config: TrainConfig) -> None:
    mesh = make_mesh(config.mesh)
    micro = config.data.batch_size // config.train.accumulation_steps
    check_layout(config.model, mesh, micro, config.data.sequence_length)
    parts = assemble(config)
    model = create(config.model, config.compute, mesh, config.train.seed)
    compress = config.mesh.compress
    state = create_state(model, parts.optimizer, mesh, scaling=parts.scaling, compress=compress)[1]
    del model
    step = train_step(config, parts, mesh)
    batch = place_batch(example(config)(packed_batch(config.data, config.model.vocab_size)), mesh)
    held: dict[str, Any] = {"state": state}
    del state

    def repeat() -> float:
        held["state"], metrics = step(held["state"], batch)
        return float(jax.block_until_ready(metrics["loss"]))

    began = time.perf_counter()
    repeat()
    about = {
        "versions": f"jax {jax.__version__}",
        "compile": time.perf_counter() - began,
        "parameters": count_parameters(config.model),
        "devices": len(jax.devices()),
        "device_kind": jax.devices()[0].device_kind,
    }
    serve(repeat, about, peak_memory)


if __name__ == "__main__":
    main(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
