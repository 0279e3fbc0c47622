"""The search tries what can be, says why not the rest, and compiles nothing twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.plan import search as searching
from maxllm.plan.machines import machine
from maxllm.plan.search import search

Tiny = Callable[..., TrainConfig]


def meshes(config: TrainConfig, name: str) -> list[dict[str, int]]:
    return list(searching._meshes(config, machine(name)))


def test_tensor_stays_within_a_host_and_stages_go_between(tiny: Tiny) -> None:
    config = tiny("model.num_layers=8", "data.batch_size=64")
    for name in ("h100x8x4", "h100x8", "v5e-16", "cpux8"):
        on = machine(name)
        found = meshes(config, name)
        assert found
        for mesh in found:
            product = 1
            for size in mesh.values():
                product *= size
            assert product == on.devices and mesh["tensor"] <= on.devices_per_host
            assert on.hosts > 1 or mesh["stage"] == 1
    assert {mesh["stage"] for mesh in meshes(config, "h100x8x4")} == {1, 2, 4}


def test_every_layout_it_would_try_is_one_the_trainer_takes(tiny: Tiny) -> None:
    """num_kv_heads 2: not over four devices; 16 rows: not over 32 devices of fsdp."""
    refused: dict[str, int] = {}
    found = list(searching._possible(tiny(), machine("cpux8"), refused))
    assert found and all(one.mesh["tensor"] <= 2 for one in found)
    assert any("num_kv_heads 2 is not divisible by mesh.tensor" in why for why in refused)
    for one in found:
        rows = one.config.data.batch_size // one.config.train.accumulation_steps
        assert rows % (one.mesh["data"] * one.mesh["fsdp"]) == 0


def test_what_cannot_fit_is_ruled_out_without_compiling() -> None:
    """Llama 3.1 8B in float32 with Adam's moments is 128 GB with its gradients: no single v5e chip holds it."""
    config = TrainConfig.model_validate({"model": {"hidden_size": 4096, "intermediate_size": 14336, "num_layers": 32}})
    with pytest.raises(UserError, match="no layout can be had .*15.5 GB usable, by formula"):
        search(config, machine("v5e-1"))


def test_the_best_is_said_as_overrides_and_a_second_search_only_reads(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny("model.num_layers=1", "data.sequence_length=32")
    said: list[str] = []
    first = search(config, machine("cpux2"), candidates=1, say=said.append)
    assert first.best is not None and len(first.tried) == 1 and first.not_compiled > 0
    assert any("compiling" in line for line in said)
    overrides = first.best.candidate.overrides
    assert any(word.startswith("mesh.fsdp=") for word in overrides)
    assert any(word.startswith("compute.remat=") for word in overrides)
    assert tiny("model.num_layers=1", "data.sequence_length=32", *overrides) == first.best.candidate.config

    start = time.process_time()
    again = search(config, machine("cpux2"), candidates=1)
    assert again.tried[0].cached and again.tried[0].told == first.tried[0].told
    assert time.process_time() - start < 3
    # Another machine, or another model, is another program.
    assert searching._name(config, machine("cpux2")) != searching._name(config, machine("cpux4"))
    assert searching._name(config, machine("cpux2")) != searching._name(tiny("optimizer.b1=0.8"), machine("cpux2"))
    assert searching._name(tiny("train.run_dir=a"), machine("cpux2")) == searching._name(tiny(), machine("cpux2"))
