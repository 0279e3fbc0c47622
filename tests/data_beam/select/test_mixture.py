"""Shares by hand, by a slow twin, and as a file that the trainer's config takes."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_beam.select.mixture import mix
from data_beam.select.weights import alpha_sampling, unimax
from maxllm.config.errors import UserError
from maxllm.config.load import resolve
from maxllm.config.mix import MixConfig
from maxllm.config.train import TrainConfig

SIZES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**9), min_size=1)


def test_unimax_by_hand():
    """A budget of 90 over 10, 20, 100, 200 with one epoch: 10, 20, then (90 - 30) / 2 = 30 each."""
    shares = unimax({"de": 100, "fi": 10, "en": 200, "sv": 20}, 90, 1)
    assert shares == pytest.approx({"de": 30 / 90, "fi": 10 / 90, "en": 30 / 90, "sv": 20 / 90})
    assert list(shares) == ["de", "fi", "en", "sv"]
    assert unimax({"a": 10, "b": 30}, 1000, 2) == pytest.approx({"a": 0.25, "b": 0.75})  # all epochs of all


@given(SIZES, st.integers(1, 10**9), st.floats(0.1, 10))
def test_unimax_is_the_level_that_fills_the_budget(sizes, budget, epochs):
    """What a source gets is min(level, epochs * size) for one level: found here by halving."""
    shares = unimax(sizes, budget, epochs)
    capacity = epochs * sum(sizes.values())
    if budget >= capacity:
        expected = {name: epochs * size for name, size in sizes.items()}
    else:
        low, high = 0.0, float(budget)
        for _ in range(200):
            level = (low + high) / 2
            filled = sum(min(level, epochs * size) for size in sizes.values())
            low, high = (low, level) if filled > budget else (level, high)
        expected = {name: min(low, epochs * size) for name, size in sizes.items()}
    total = sum(expected.values())
    assert shares == pytest.approx({name: value / total for name, value in expected.items()}, rel=1e-6, abs=1e-9)


def test_what_alpha_does_in_both_readings():
    sizes = {"python": 16.0, "rust": 1.0}
    assert alpha_sampling(sizes, 0.5) == pytest.approx({"python": 0.8, "rust": 0.2})
    assert alpha_sampling(sizes, 1.0)["python"] == pytest.approx(16 / 17)
    assert alpha_sampling(sizes, 1 / 1.3)["rust"] > 1 / 17 > alpha_sampling(sizes, 1.3)["rust"]


def dataset(folder, **tokens) -> str:
    folder.mkdir()
    counts = {
        "train": {name.replace("__", "/"): {"documents": 1, "tokens": n, "bytes": n} for name, n in tokens.items()}
    }
    (folder / "dataset.json").write_text(json.dumps({"counts": counts}))
    return str(folder)


def test_the_file_is_a_base_of_a_train_config(tmp_path):
    tokens = {
        "web": dataset(tmp_path / "web", web__en=900, web__fi=100),
        "code": dataset(tmp_path / "code", github=500),
    }
    output = tmp_path / "new" / "mixture.yml"
    rows = mix(MixConfig(tokens=tokens, method="unimax", budget_tokens=700, output=str(output)))
    assert {row["name"]: round(row["share"], 6) for row in rows} == {
        "web/web/en": round(300 / 700, 6),
        "web/web/fi": round(100 / 700, 6),
        "code": round(300 / 700, 6),
    }
    assert {row["name"]: row["epochs"] for row in rows}["web/web/fi"] == pytest.approx(1.0)
    (tmp_path / "mine.yml").write_text(f"base: [train/demo, {output}]\ndata: {{sources: {{code: {{weight: 0.5}}}}}}\n")
    config = resolve(TrainConfig, str(tmp_path / "mine.yml")).config
    assert config.data.sources["code"].weight == 0.5
    assert config.data.sources["web/web/en"].source == "web/en"
    assert "budget_tokens: 700" in output.read_text() and yaml.safe_load(output.read_text())["kind"] == "train"


def test_mistakes_are_sentences(tmp_path):
    with pytest.raises(UserError, match="tokens is empty"):
        mix(MixConfig(method="uniform"))
    with pytest.raises(UserError, match="there is no dataset.json"):
        mix(MixConfig(method="uniform", tokens={"a": str(tmp_path)}))
    with pytest.raises(ValueError, match="set budget_tokens"):
        MixConfig(method="unimax")
    with pytest.raises(UserError, match="hold no tokens"):
        mix(MixConfig(method="alpha", tokens={"a": dataset(tmp_path / "empty")}))


@pytest.mark.parametrize("name", ["english-unimax", "multilingual-unimax", "code-alpha"])
def test_presets_load(name):
    assert resolve(MixConfig, f"sampling/{name}").config.kind == "mix"
