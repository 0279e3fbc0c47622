"""One run, from a config to a folder that says how it went and that a model can be loaded from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.config import resolve
from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.data.loader import Loader
from maxllm.tokenizer import Tokenizer
from maxllm.train import loop
from maxllm.train.checkpoint import load_any, load_model
from maxllm.train.guard import Diverged
from maxllm.train.metrics import read

Configured = Callable[..., TrainConfig]


def test_a_run_leaves_everything_needed_to_repeat_it(
    configured: Configured, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(train={"eval_every": 10})
    last = loop.train(config, evaluate=lambda model, step: {"held_out_marker": float(step)})
    run = Path(config.train.run_dir)

    records = read(run / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 31))
    assert records[-1] == last
    assert last["loss"] < records[0]["loss"] - 1
    for record in records:
        assert {"loss", "gradient_norm", "learning_rate", "weight"} <= record.keys()
    # Step 1 compiled: its time says nothing about a rate, and gives none.
    assert "tokens_per_second" not in records[0] and last["tokens_per_second"] > 0
    assert [record["step"] for record in records if "held_out_loss" in record] == [10, 20, 30]
    assert [record["held_out_marker"] for record in records if "held_out_marker" in record] == [10, 20, 30]
    assert last["host_memory_bytes"] > 1 << 20
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["20", "30"]

    again = resolve(TrainConfig, run / "config.yml").config
    assert again == config
    fingerprint = Tokenizer.load(tokens / "tokenizer").fingerprint
    assert Tokenizer.load(run / "tokenizer").fingerprint == fingerprint
    assert f"# tokenizer sha256 {fingerprint}" in (run / "config.yml").read_text()
    assert list((run / "tensorboard").iterdir())

    printed = capsys.readouterr().out
    for part in ("mesh fsdp=8", "parameters", "step 12/30", "tok/s", "left", "trained 30 steps"):
        assert part in printed


def test_a_finished_run_is_not_trained_again_and_a_longer_one_goes_on(configured: Configured) -> None:
    first = loop.train(configured(train={"steps": 10}))
    assert loop.train(configured(train={"steps": 10})) == first
    last = loop.train(configured(train={"steps": 14}))
    assert last["step"] == 14
    records = read(Path(configured().train.run_dir) / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 15))


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_the_saved_model_is_the_trained_one(configured: Configured, axes: dict[str, int]) -> None:
    """The loss of the loaded model on a held-out batch, by plain log-softmax on one device."""
    config = configured(mesh=axes, train={"steps": 10, "eval_batches": 1})
    last = loop.train(config)
    run = Path(config.train.run_dir)
    model, tokenizer, shape = load_any(run)
    assert shape == config.model
    held_out = Loader(config.data, tokenizer_fingerprint=tokenizer.fingerprint, split="held_out").batch(0)
    logits = np.asarray(nnx.jit(model)(held_out.tokens, held_out.positions, held_out.segment_ids), np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_probabilities, held_out.targets[..., None], -1)[..., 0]
    loss = -(picked * held_out.weights).sum() / held_out.weights.sum()
    assert loss == pytest.approx(last["held_out_loss"], rel=1e-5)

    step, _, _ = load_model(run / "checkpoints" / "10")
    leaves = zip(jax.tree.leaves(step_state(step)), jax.tree.leaves(step_state(model)), strict=True)
    assert all(np.array_equal(left, right) for left, right in leaves)
    half, _, _ = load_model(run, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(step_state(half))} == {"bfloat16"}


def step_state(model: Any) -> Any:
    return nnx.split(model)[1]


def test_goes_on_bit_for_bit_and_on_another_mesh_up_to_rounding(configured: Configured) -> None:
    """Eight devices along one axis, the last checkpoint lost: the same bits there, the same loss on another mesh."""
    train = {"steps": 10, "checkpoint_every": 5, "eval_batches": 1}
    whole = loop.train(configured(mesh={"fsdp": 8}, train=train))
    checkpoints = Path(configured().train.run_dir) / "checkpoints"

    def fingerprints() -> dict[str, int]:
        return json.loads((checkpoints / "10" / "meta" / "metadata").read_text())["fingerprints"]

    wanted = fingerprints()
    shutil.rmtree(checkpoints / "10")
    loop.train(configured(mesh={"fsdp": 8}, train=train))
    assert fingerprints() == wanted

    shutil.rmtree(checkpoints / "10")
    resumed = loop.train(configured(mesh={"data": 2, "fsdp": 2, "tensor": 2}, train=train))
    assert resumed["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-5)
    assert fingerprints().keys() == wanted.keys() and fingerprints() != wanted
    assert [record["step"] for record in read(checkpoints.parent / "metrics.jsonl")] == list(range(1, 11))


def test_going_on_as_another_run_is_refused(configured: Configured) -> None:
    short = {"schedule": {"warmup_steps": 0}, "train": {"steps": 2}}
    loop.train(configured(**short))
    for section, setting, value, named in (
        ("model", "num_layers", 3, "model.num_layers was 2 and is now 3"),
        ("data", "batch_size", 16, "data.batch_size was 8 and is now 16"),
        ("data", "seed", 1, "data.seed was 0 and is now 1"),
        ("train", "seed", 1, "train.seed was 0 and is now 1"),
    ):
        changed = {**short, section: {**short.get(section, {}), setting: value}}
        with pytest.raises(UserError, match=named):
            loop.train(configured(**changed))
    # What does not change whose parameters these are is allowed.
    allowed = configured(
        schedule={"warmup_steps": 0}, train={"steps": 4, "log_every": 1}, optimizer={"learning_rate": 1e-3}
    )
    assert loop.train(allowed)["step"] == 4


def test_nan_stops_before_it_is_saved_and_names_the_documents(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_batch, placed = loop.place_batch, []

    def poisoned(batch: Any, mesh: Any) -> Any:
        placed.append(batch)
        if len(placed) == 14:  # batch 13, made step 14
            batch = batch._replace(weights=np.where(batch.weights > 0, np.float32("nan"), 0))
        return place_batch(batch, mesh)

    monkeypatch.setattr(loop, "place_batch", poisoned)
    config = configured(train={"checkpoint_every": 5})
    with pytest.raises(Diverged) as caught:
        loop.train(config)
    fingerprint = Tokenizer.load(Path(config.train.run_dir) / "tokenizer").fingerprint
    ids = Loader(config.data, tokenizer_fingerprint=fingerprint).document_ids(13)
    assert "step 14: " in str(caught.value) and ids[0] in str(caught.value)
    assert "checkpoint of step 10" in str(caught.value)
    run = Path(config.train.run_dir)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10", "5"]
    records = read(run / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 14))
    assert all(math.isfinite(record["loss"]) for record in records)
    monkeypatch.undo()
    assert loop.train(config)["step"] == 30


def test_two_trainers_in_one_folder_are_refused(configured: Configured) -> None:
    from maxllm.train import run_dir

    config = configured()
    with run_dir.lock(Path(config.train.run_dir)), pytest.raises(UserError, match="another process .* is training"):
        loop.train(config)


def test_mistakes_are_one_sentence(configured: Configured, tmp_path: Path) -> None:
    for changes, named in (
        ({"mesh": {"fsdp": 3}}, "8 devices"),
        ({"data": {"sources": {}}}, "data.sources is empty"),
        ({"data": {"batch_size": 12}}, "12"),
        ({"model": {"vocab_size": 64}}, "set model.vocab_size=448"),
        ({"data": {"sources": {"a": {"path": str(tmp_path)}}}}, "tokenize"),
    ):
        with pytest.raises(UserError, match=named):
            loop.train(configured(**changes))


def test_loading_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run directory"):
        load_any(tmp_path)
    with pytest.raises(UserError, match="neither a run directory"):
        load_any(tmp_path / "absent")


def test_a_run_may_begin_with_another_ones_parameters(configured: Configured, tmp_path: Path) -> None:
    first = loop.train(configured())
    given = str(configured().train.run_dir)
    begun = configured(
        train={"steps": 2, "run_dir": str(tmp_path / "second"), "init_from": given},
        schedule={"warmup_steps": 0},
        optimizer={"learning_rate": 1e-9},
    )
    assert abs(loop.train(begun)["held_out_loss"] - first["held_out_loss"]) < 1e-3
    other = configured(
        model={"num_layers": 3},
        train={"steps": 1, "run_dir": str(tmp_path / "third"), "init_from": given},
        schedule={"warmup_steps": 0},
    )
    with pytest.raises(UserError, match="another shape.*model.num_layers=2"):
        loop.train(other)
