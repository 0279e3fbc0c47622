"""The section `sparsity`: which of the layers' weights training sets to zero, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class SparsityConfig(Section):
    """Zeros among the layers' matrices; embedding, norms, router and head stay dense. Checkpoints hold the masks."""

    name: Literal["none", "n_m", "magnitude"] = Field(
        "none", description="n_m: n of every m inputs of an output; magnitude: the smallest weights, more and more"
    )
    n: PositiveInt = Field(2, description="n_m: weights kept in each group")
    m: PositiveInt = Field(4, description="n_m: neighbouring inputs in a group")
    final: float = Field(0.5, gt=0, lt=1, description="magnitude: share of zeros from end_step on")
    scope: Literal["layer", "global"] = Field(
        "layer", description="magnitude: the share of each matrix of each layer, or of all of them together"
    )
    begin_step: int = Field(0, ge=0, description="step after which the first mask is chosen")
    end_step: int | None = Field(None, ge=0, description="step of the last choice; none = half of train.steps")
    every: PositiveInt = Field(100, description="steps between choices")
    straight_through: bool = Field(
        False, description="masked weights go on learning and may come back (SR-STE); one more copy of the layers"
    )
    decay: float = Field(2e-4, ge=0, description="straight_through: pull on masked weights towards zero")

    @model_validator(mode="after")
    def _consistent(self) -> SparsityConfig:
        if self.n >= self.m:
            raise ValueError(f"n {self.n} of every m {self.m} leaves no zeros; choose n below m")
        if self.end_step is not None and self.end_step < self.begin_step:
            raise ValueError(f"end_step {self.end_step} is before begin_step {self.begin_step}")
        return self

    def last_step(self, steps: int) -> int:
        """Of the last choice, in a run of `steps`."""
        return max(self.begin_step, steps // 2) if self.end_step is None else self.end_step
