"""Every objective's preset trains, and a run that was stopped goes on with the same batches to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maxllm.config import resolve
from maxllm.config.load import presets_folder
from maxllm.config.train import LABELLED, TrainConfig
from maxllm.train.loop import Evaluation, train
from maxllm.train.metrics import read

PRESETS = sorted(  # those of labels: test_labelled_training.py
    path.stem
    for path in (presets_folder() / "train" / "objectives").glob("*.yml")
    if path.stem not in LABELLED.values()
)
USUAL = {"ul2"}  # pairs, on all simulated devices; the others take as long


class Stopped(Exception): ...


def stop(model: object, step: int) -> dict[str, float]:
    raise Stopped


def run(preset: str, tokens: Path, folder: Path, evaluate: Evaluation | None = None) -> list[dict[str, Any]]:
    """The preset, narrower, for 20 steps of 8 x 32 tokens on one device; its records."""
    tree = {
        "base": f"train/objectives/{preset}",
        "model": {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "max_positions": 64},
        "data": {"sources": {"words": {"path": str(tokens)}}, "sequence_length": 32, "batch_size": 8},
        "schedule": {"warmup_steps": 2},
        "train": {"run_dir": str(folder), "steps": 20, "log_every": 1, "checkpoint_every": 6, "eval_batches": 1},
    }
    tree["train"]["eval_every"] = 8 if evaluate else 0
    train(resolve(TrainConfig, tree=tree).config, evaluate=evaluate)
    return read(folder / "metrics.jsonl")


@pytest.mark.parametrize(
    "preset", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]
)
def test_a_preset_trains_and_goes_on_exactly(preset, tokens, tmp_path):
    whole = run(preset, tokens, tmp_path / "whole")
    losses = [record["loss"] for record in whole]
    assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5])
    assert whole[-1]["held_out_loss"] > 0
    with pytest.raises(Stopped):  # after step 8; step 6 is saved
        run(preset, tokens, tmp_path / "parts", evaluate=stop)
    again = run(preset, tokens, tmp_path / "parts")
    assert [record["loss"] for record in again] == losses
    assert again[-1]["held_out_loss"] == whole[-1]["held_out_loss"]
