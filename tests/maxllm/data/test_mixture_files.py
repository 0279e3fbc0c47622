"""configs/mix: the mission's shares, as files that a train config can begin from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maxllm.config import UserError, resolve
from maxllm.config.load import presets_folder
from maxllm.config.train import TrainConfig
from maxllm.data.loader import Loader
from maxllm.data.phases import Curriculum
from maxllm.data.phases import resolve as resolve_phases

PERCENT = {
    "balanced": {"web": 50, "code": 20, "math": 10, "books": 10, "academic": 5, "conversations": 5},
    "typical-2025": {
        "common_crawl": 65 / 0.925,
        "github": 12.5 / 0.925,
        "books": 7.5 / 0.925,
        "arxiv": 3.5 / 0.925,
        "wikipedia": 2.5 / 0.925,
        "stackexchange": 1.5 / 0.925,
    },
    "classic": {"common_crawl": 70, "github": 15, "books": 10, "papers": 3, "wikipedia": 2},
    "2t": {
        "english_web": 47.82,
        "english_news": 5.06,
        "english_books": 1.88,
        "english_scientific": 1.78,
        "multilingual_web": 29.05,
        "multilingual_parallel": 3.01,
        "code": 11.40,
    },
    "toy": {"c4": 53.33, "bookcorpus": 13.33, "the_stack": 13.33, "cc_news": 13.33, "arxiv_abstracts": 6.67},
}


@pytest.mark.parametrize("name", PERCENT)
def test_a_mixture_has_the_missions_shares(name: str) -> None:
    sources = resolve(TrainConfig, f"mix/{name}").config.data.sources
    total = sum(source.weight for source in sources.values())
    shares = {name: 100 * source.weight / total for name, source in sources.items()}
    assert shares == pytest.approx(PERCENT[name], abs=0.005)
    assert sum(PERCENT[name].values()) == pytest.approx(100, abs=0.03)


def test_every_preset_is_tested() -> None:
    curricula = {f"curriculum-{kind}" for kind in ("length", "domain", "difficulty")}
    assert {path.stem for path in (presets_folder() / "mix").glob("*.yml")} == PERCENT.keys() | curricula


def shares_by_phase(name: str, steps: int) -> dict[tuple[int, int], dict[str, float]]:
    """(first step, length) -> percent of each source's rows, counted position by position."""
    data = resolve(TrainConfig, f"mix/{name}").config.data
    phases = resolve_phases(data, steps)
    curriculum, names = Curriculum(phases, data.sequence_length), sorted(data.sources)
    found = {}
    for phase in phases:
        sources, _, _ = curriculum.locate(phase.first, np.arange(3000))
        counts = np.bincount(sources, minlength=len(names)) / 30
        found[phase.first, phase.sequence_length] = {n: c for n, c in zip(names, counts.tolist(), strict=True) if c}
    return found


def test_the_curriculum_of_lengths() -> None:
    base = resolve(TrainConfig, tree={"base": ["mix/balanced", "mix/curriculum-length", "models/7b"]}).config
    assert base.model.max_positions == 8192
    phases = resolve_phases(base.data, 1000)
    assert [phase[:3] for phase in phases] == [(0, 512, 128), (200, 2048, 32), (600, 4096, 16)]


def test_the_curriculum_of_domains() -> None:
    first, second, last = shares_by_phase("curriculum-domain", 1000).items()
    assert first == ((0, 256), pytest.approx({"academic": 80 / 3, "books": 160 / 3, "web": 20}, abs=0.05))
    assert second[0] == (200, 256)
    assert second[1] == pytest.approx({"academic": 50 / 3, "books": 100 / 3, "web": 40, "code": 10}, abs=0.05)
    assert last == ((600, 256), pytest.approx(PERCENT["balanced"], abs=0.05))


def test_the_curriculum_of_difficulty_gives_every_bucket_a_third() -> None:
    phases = shares_by_phase("curriculum-difficulty", 1000)
    tokens = dict.fromkeys(("head", "middle", "tail"), 0.0)
    for (_, shares), length in zip(phases.items(), (0.2, 0.4, 0.4), strict=True):
        for name, share in shares.items():
            tokens[name] += share * length
    assert tokens == pytest.approx(dict.fromkeys(tokens, 100 / 3), abs=0.1)


def test_sources_that_are_not_there_are_all_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = resolve(TrainConfig, "mix/classic", ["data.sources.books.weight=0"]).config.data
    with pytest.raises(UserError) as error:
        Loader(data, tokenizer_fingerprint="")
    assert "data.sources.wikipedia.path (runs/tokens)" in str(error.value)
    assert "data.sources.common_crawl.path=" in str(error.value) and "books" not in str(error.value)
