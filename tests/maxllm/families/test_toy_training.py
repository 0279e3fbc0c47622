"""Every family learns: 50 steps in bfloat16 on the text of Python's own reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maxllm.convert import hf
from maxllm.families import toy
from maxllm.families.table import failures

GOLDEN = Path(__file__).parent / "golden"
# Those with a head of classes have no objective of pretraining.
NAMES = sorted(path.name for path in GOLDEN.iterdir() if hf.load_config(path).labels is None)
QUICK = ("gemma2", "bert")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_loss_falls_below_its_bound(name: str, documentation: Path):
    config = hf.load_config(GOLDEN / name)
    curve = toy.train(config, documentation)
    assert failures({name: toy.cells(curve, config.architecture)}) == [], json.dumps(curve.losses)
