"""A run whose mixture and sequence length change: stopped in a phase it goes on, and its checkpoints tell its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.train import loop
from maxllm.train.metrics import read

Configured = Callable[..., TrainConfig]
PHASES = [
    {"until": 0.3, "sequence_length": 16, "weights": {"easy": 8, "middle": 2}},
    {"until": 10, "sequence_length": 16, "weights": {"easy": 5, "middle": 4, "hard": 1}},
    {"until": 1},
]


@pytest.fixture
def phased(configured: Configured, domains) -> Configured:
    def config_of(phases: list[dict[str, Any]] = PHASES, **train: Any) -> TrainConfig:
        return configured(
            data={"sources": domains, "sequence_length": 32, "batch_size": 8, "phases": phases},
            train={"steps": 14, "checkpoint_every": 2, "keep_checkpoints": 9, "eval_batches": 1, **train},
            schedule={"warmup_steps": 0},
        )

    return config_of


def test_stopped_in_the_middle_of_any_phase_it_is_the_same_run(
    phased: Configured, domains, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train(phased())
    run = Path(phased().train.run_dir)
    printed = capsys.readouterr().out
    assert "phase 1 of 3 from step 0: 16 x 16; easy 80.0%, middle 20.0%" in printed
    assert "phase 2 of 3 from step 4: 16 x 16; easy 50.0%, hard 10.0%, middle 40.0%" in printed
    assert "phase 3 of 3 from step 10: 8 x 32" in printed

    def left_behind() -> tuple[Any, ...]:
        folder = run / "checkpoints" / "14"
        curve = [(record["step"], record["loss"], record["weight"]) for record in read(run / "metrics.jsonl")]
        return json.loads((folder / "meta" / "metadata").read_text())["fingerprints"], curve

    wanted = left_behind()
    assert [step for step, _, _ in wanted[1]] == list(range(1, 15))
    assert all(200 < weight <= 256 for _, _, weight in wanted[1])  # of 256 tokens a step in every phase
    for stopped in (2, 8):
        for step in range(stopped + 2, 15, 2):
            shutil.rmtree(run / "checkpoints" / str(step))
        loop.train(phased())
        assert left_behind() == wanted

    # What the run was fed, beside it and in every checkpoint.
    counts = json.loads((Path(domains["easy"]["path"]) / "dataset.json").read_text())["counts"]["train"]
    described = json.loads((run / "data.json").read_text())
    assert described["sources"]["hard"]["contents"] == {"hard": {**counts["hard"], "years": {"2026": 1.0}}}
    assert [phase["first_step"] for phase in described["phases"]] == [0, 4, 10]
    assert described["phases"][1]["shares"] == {"easy": 0.5, "hard": 0.1, "middle": 0.4}
    saved = json.loads((run / "checkpoints" / "4" / "data" / "metadata").read_text())
    assert saved["phases"] == described["phases"]
    assert saved["progress"]["tokens"] == 4 * 256
    assert saved["progress"]["epochs"]["hard"] == 0 < saved["progress"]["epochs"]["middle"]


def test_years_are_carried_along_where_the_data_set_has_them(phased: Configured, domains, tmp_path: Path) -> None:
    copy = tmp_path / "dated"
    shutil.copytree(domains["easy"]["path"], copy)
    description = json.loads((copy / "dataset.json").read_text())
    description["years"] = {"easy": {"2019": 0.25, "2023": 0.75}}
    (copy / "dataset.json").write_text(json.dumps(description))
    config = phased(phases=[], steps=1)
    dated = {name: source.model_copy(update={"path": str(copy)}) for name, source in config.data.sources.items()}
    loop.train(config.model_copy(update={"data": config.data.model_copy(update={"sources": dated})}))
    sources = json.loads((Path(config.train.run_dir) / "checkpoints" / "1" / "data" / "metadata").read_text())[
        "sources"
    ]
    assert sources["easy"]["contents"]["easy"]["years"] == {"2019": 0.25, "2023": 0.75}
    assert "years" not in sources["hard"]["contents"]["hard"]


def test_phases_that_moved_are_another_run(phased: Configured) -> None:
    def half(until: float) -> list[dict[str, Any]]:
        return [{"until": until, "weights": {"easy": 1}}, {"until": 1}]

    loop.train(phased(half(0.5), steps=4))
    with pytest.raises(UserError, match="data.phases, counted in steps, were others"):
        loop.train(phased(half(0.5), steps=6))
    assert loop.train(phased(half(2), steps=6))["step"] == 6


def test_a_source_that_is_not_there_names_its_setting(configured: Configured, domains) -> None:
    sources = {**domains, "books": {"path": "nowhere/books"}, "web": {"path": "nowhere/web", "weight": 0}}
    with pytest.raises(
        UserError, match=r"data.sources.books.path \(nowhere/books\); .*data.sources.books.path="
    ) as error:
        loop.train(configured(data={"sources": sources}))
    assert "web" not in str(error.value)
