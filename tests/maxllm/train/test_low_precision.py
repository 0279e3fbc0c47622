"""`maxllm train` in low precision and with sparse weights: it trains, goes on bit for bit, and exports the zeros."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from maxllm.cli.main import main
from maxllm.config import resolve
from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.train.loop import train
from maxllm.train.metrics import read

Sections = dict[str, dict[str, Any]]
MASKS: Sections = {"sparsity": {"name": "n_m", "straight_through": True, "every": 2, "end_step": 5}}
EVERYTHING: Sections = {
    "compute": {"dtype": "float32", "precision": "fp8_delayed"},
    "optimizer": {"moments_dtype": "bfloat16", "learning_rate": 3e-3},
    **MASKS,
}


def config(base: dict[str, Any], folder: Path, sections: Sections, steps: int = 8) -> TrainConfig:
    mesh = {"fsdp": 1, "data": 1}
    loop = {**base["train"], "run_dir": str(folder), "steps": steps, "checkpoint_every": 4, "log_every": 1}
    tree = {**base, "mesh": mesh, "train": loop}
    tree |= {name: {**tree.get(name, {}), **section} for name, section in sections.items()}
    return resolve(TrainConfig, tree=tree).config


def prints(folder: Path, step: int) -> dict[str, int]:
    return json.loads((folder / "checkpoints" / str(step) / "meta" / "metadata").read_text())["fingerprints"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "devices", lambda *kind: [jax.local_devices()[0]])


def test_a_run_with_all_of_it_goes_on_bit_for_bit_and_exports_its_zeros(base_settings, tmp_path):
    folder = tmp_path / "run"
    settings = config(base_settings, folder, EVERYTHING)
    first = train(settings)
    curve = read(folder / "metrics.jsonl")
    assert curve[-1]["sparsity"] == 0.5 and curve[-1]["loss"] < curve[0]["loss"]
    whole = prints(folder, 8)
    assert {name.split("/")[0] for name in whole} == {"parameters", "optimizer", "scaling"}
    kept = ocp.StandardCheckpointer().restore(folder / "checkpoints" / "8" / "optimizer")
    assert str(kept["inner"]["1"]["inner"]["0"]["mu"]["norm"]["weight"]["value"].dtype) == "bfloat16"
    shutil.rmtree(folder / "checkpoints" / "8")
    again = train(settings)
    assert prints(folder, 8) == whole
    assert again["loss"] == first["loss"] and again["held_out_loss"] == first["held_out_loss"]

    assert main(["export", str(folder), str(tmp_path / "export")]) == 0
    tensors = load_file(tmp_path / "export" / "model.safetensors")
    matrices = [array for name, array in tensors.items() if name.endswith("proj.weight")]
    assert len(matrices) == 14
    for array in matrices:  # Hugging Face's are [outputs, inputs]
        assert np.all((array.reshape(-1, 4) != 0).sum(1) == 2)

    refused = config(base_settings, folder, EVERYTHING | {"sparsity": {"name": "none"}}, steps=9)
    with pytest.raises(UserError, match="sparsity.name was 'n_m' and is now 'none'"):
        train(refused)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"data": 2, "stage": 2}, {"data": 4, "zero": 1}, {"data": 4, "compress": "int8"}], ids=str
)
def test_scales_are_remembered_alike_in_pipelines_in_copies_and_beside_compressed_gradients(
    mesh, base_settings, tmp_path, monkeypatch
):
    import jax

    loop = {"train": {"accumulation_steps": 2, "eval_batches": 1}, "compute": EVERYTHING["compute"]}
    losses, tables = [], []
    for axes in ({}, mesh):
        devices = jax.local_devices()[: 4 if axes else 1]
        monkeypatch.setattr(jax, "devices", lambda *kind, devices=devices: devices)
        folder = tmp_path / str(len(losses))
        losses.append(train(config(base_settings, folder, loop | {"mesh": {"fsdp": 1, **axes}}))["loss"])
        restored = ocp.StandardCheckpointer().restore(folder / "checkpoints" / "8" / "scaling")
        tables.append([np.where(table > 0, np.arange(256), 0).max(-1) for table in jax.tree.leaves(restored)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)  # compression rounds, too
    same = np.mean([here == there for here, there in zip(*tables, strict=True)])
    assert same > 0.95  # a magnitude beside a power of two may fall to its other side


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp8", "fp8_delayed", "int8"])
def test_a_run_may_go_on_in_another_precision_and_come_back(precision, base_settings, tmp_path):
    dense = train(config(base_settings, tmp_path / "run", {}, steps=6))
    narrow = {"compute": {"dtype": "bfloat16", "precision": precision}}
    on = train(config(base_settings, tmp_path / "run", narrow, steps=10))
    back = train(config(base_settings, tmp_path / "run", {}, steps=12))
    assert back["loss"] < on["loss"] < dense["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sparsity",
    [{"name": "n_m", "begin_step": 2, "end_step": 2}, {"name": "magnitude", "begin_step": 1, "final": 0.7, "every": 2}],
    ids=["n_m", "magnitude"],
)
def test_sparse_runs_reach_their_zeros(sparsity, base_settings, tmp_path):
    train(config(base_settings, tmp_path / "run", {"sparsity": sparsity}))
    reported = [record["sparsity"] for record in read(tmp_path / "run" / "metrics.jsonl")]
    assert reported[0] == 0 and abs(reported[-1] - sparsity.get("final", 0.5)) < 0.01
