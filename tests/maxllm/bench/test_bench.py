"""`maxllm bench` measures the real step and attention in processes of their own; the arithmetic is by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maxllm.bench import table
from maxllm.bench.ours_step import packed_batch
from maxllm.cli.main import main
from maxllm.config.train import DataConfig, TrainConfig

TINY = ["model.hidden_size=32", "model.num_heads=2", "model.num_kv_heads=2", "model.intermediate_size=48"]
TINY += ["model.num_layers=2", "model.vocab_size=64", "data.sequence_length=16", "data.batch_size=8"]


def test_work_is_what_the_formulas_say():
    config = TrainConfig.model_validate(
        {
            "model": {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16},
            "data": {"sequence_length": 16, "batch_size": 8},
            "train": {"accumulation_steps": 2},
        }
    )
    # 4 rows; a product of 2 heads, 16 x 16 scores over 16 dimensions: 2 * 2 * 16 * 16 * 16 FLOPs, halved by causality.
    assert table.attention_work(config) == (4 * 16, 4 * 7 * 2 * 16 * 16 * 16)
    tokens, flops = table.step_work(config)
    assert tokens == 128 and flops > 6 * 128 * 4 * 3 * 32 * 704  # at least the four layers' gated products


def test_ratios_are_of_the_fastest_and_against_the_last():
    taken = {
        "ours": [{"wall": 0.5, "cpu": 1.0}, {"wall": 0.7, "cpu": 1.1}],
        "twin": [{"wall": 1.0, "cpu": 2.0}, {"wall": 0.8, "cpu": 2.0}],
    }
    about = {"compile": 1.0, "versions": "x"}
    ours, twin = table.rows(taken, {"ours": about, "twin": about}, table.Work(100, 4e12), 16e12)
    assert (ours["tokens_per_second"], ours["tflops"], ours["mfu"]) == (200, 8, 0.5)
    assert ours["ratio"] == pytest.approx(1.6) and twin["ratio"] == 1
    assert ours["median_seconds"] == pytest.approx(0.6)


def test_the_measured_batch_is_packed_as_the_loader_packs():
    batch = packed_batch(DataConfig(sequence_length=64, batch_size=16), 100)
    assert (batch.tokens[:, 1:] == batch.targets[:, :-1]).all()
    begins = np.diff(batch.segment_ids, axis=1, prepend=0) > 0
    assert (batch.positions[begins] == 0).all() and (np.diff(batch.positions, axis=1)[~begins[:, 1:]] == 1).all()
    assert 2 < batch.segment_ids.max(axis=1).mean() < 9


@pytest.mark.parametrize("what", ["step", "attention"])
def test_a_measurement_end_to_end(what, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    config = tmp_path / "tiny.yml"
    config.write_text("kind: train\ncompute: {dtype: float32}\n")
    out = tmp_path / "rows.json"
    assert main(["bench", what, str(config), *TINY, "--repeats", "2", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["program"] == "maxllm" and row["seconds"] > 0 and row["compile_seconds"] > 0
    assert row["memory_bytes"] > 1e7 and row["ratio"] is None and row["mfu"] is None
