"""Models whose layers take turns go through stages only where every stage begins with the same turn."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from maxllm.config.model import ModelConfig
from maxllm.config.parallel import PipelineConfig
from maxllm.config.train import TrainConfig

TURNS = {"num_layers": 12, "window": 8, "global_every": 3}


@pytest.mark.parametrize("stages, fits", [(1, True), (2, True), (4, True), (3, False), (6, False)])
def test_a_stage_holds_whole_rounds_of_turns(stages: int, fits: bool) -> None:
    assert (PipelineConfig().refusal(stages, ModelConfig(**TURNS), 8) is None) == fits


def test_so_do_the_groups_of_the_interleaved_schedule() -> None:
    model = ModelConfig(**TURNS)
    assert PipelineConfig(schedule="interleaved", chunks=2).refusal(2, model, 8) is None
    assert "global_every" in (PipelineConfig(schedule="interleaved", chunks=3).refusal(2, model, 8) or "")


def test_the_sentence_comes_with_the_config() -> None:
    with pytest.raises(ValidationError, match="global_every 3"):
        TrainConfig(model=TURNS, mesh={"stage": 6}, train={"accumulation_steps": 8})
    with pytest.raises(ValidationError, match=r"dense_layers 1 is no multiple of global_every 3"):
        ModelConfig(**TURNS, num_experts=4, routing={"dense_layers": 1})
