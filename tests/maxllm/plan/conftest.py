"""A model so small that its step compiles in seconds, and the TPU's compiler where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from maxllm.config.load import resolve
from maxllm.config.train import TrainConfig

TINY = [
    "model.vocab_size=64",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.max_positions=64",
    "data.sequence_length=64",
    "data.batch_size=16",
    "compute.remat=full",
]


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrainConfig]:
    return lambda *overrides: resolve(TrainConfig, None, [*TINY, *overrides]).config


@pytest.fixture(scope="session")
def libtpu() -> None:
    if not Path(os.environ.get("TPU_LIBRARY_PATH", "")).is_file():
        pytest.skip("THE TPU'S COMPILER IS ABSENT (TPU_LIBRARY_PATH): nothing was compiled for TPU by this test")


@pytest.fixture(scope="session")
def cuda() -> None:
    try:
        import jax_plugins.xla_cuda13  # noqa: F401
    except ImportError:
        pytest.skip("THE GPU'S COMPILER IS ABSENT (extra plan-gpu): nothing was compiled for GPU by this test")
