"""Settings of `maxllm select`: which curated documents go into training, and how often."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from maxllm.config.curate import OutputConfig
from maxllm.config.section import Section


class AgeConfig(Section):
    """By the date of a document: its `created`, else its `added`. Dates are ISO 8601, any prefix: 2019, 2019-07."""

    since: str | None = Field(None, description="older documents are left out")
    before: str | None = Field(None, description="documents of this date and later are left out")
    weights: dict[int, float] = Field(default_factory=dict, description="expected copies of a document, by year")
    half_life_years: float | None = Field(None, gt=0, description="weight 0.5 ** (age / this), age from `reference`")
    reference: str | None = Field(None, description="the date from which ages count; needed by half_life_years")
    undated: Literal["keep", "drop"] = Field("keep", description="documents without a date")

    @field_validator("since", "before", "reference")
    @classmethod
    def _date(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\S*)?)?)?", value):
            raise ValueError(f"{value!r} is not a date; write 2019, 2019-07 or 2019-07-31")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> AgeConfig:
        if self.half_life_years and not self.reference:
            raise ValueError("half_life_years counts from a date; set age.reference, such as 2025-01-01")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("age.weights: a weight is negative; 0 leaves a year out")
        return self


class DsirConfig(Section):
    """Data selection by importance resampling (Xie et al. 2023, arXiv 2302.03169)."""

    target: list[str] = Field(default_factory=list, description="documents like which to select; empty switches it off")
    fraction: float = Field(0.95, gt=0, le=1, description="share of documents kept; the mission's 0.95")
    level: Literal["source", "document"] = Field(
        "source", description="source: each source by itself, its own distribution and share; document: all compete"
    )
    buckets: PositiveInt = Field(10_000, description="of hashed n-grams")
    ngram: PositiveInt = Field(2, description="n-grams of 1 to this many words")
    min_words: int = Field(100, ge=0, description="shorter documents are not selected, as in the paper's code")
    seed: int = 0


class AttributeConfig(Section):
    """Expected copies of a document by the value of one of its attributes.

    A number is sorted into buckets by `edges` (bucket k: edges[k-1] <= value < edges[k], from 0), anything else is its
    own label. Labels that `groups` names share a weight; the others have their own.
    """

    key: str = Field(description="where the value is in metadata, such as scores.quality or language")
    edges: list[float] = Field(default_factory=list, description="ascending; empty: the value is a label")
    groups: dict[str, list[str]] = Field(default_factory=dict, description="name -> labels that share its weight")
    weights: dict[str, float] = Field(description="label, bucket number or group -> expected copies; 0 leaves out")
    default: float = Field(1.0, ge=0, description="of what has no weight of its own, or lacks the attribute")

    @model_validator(mode="after")
    def _consistent(self) -> AttributeConfig:
        if sorted(self.edges) != self.edges:
            raise ValueError(f"{self.key}: edges must ascend")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError(f"{self.key}: a weight is negative; 0 leaves out")
        labels = [label for group in self.groups.values() for label in group]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{self.key}: {repeated[0]} is in two groups")
        return self


class SelectConfig(Section):
    kind: Literal["select"] = "select"
    documents: list[str] = Field(default_factory=list, description="globs of curated JSON lines or Parquet")
    age: AgeConfig = AgeConfig()
    dsir: DsirConfig = DsirConfig()
    attributes: list[AttributeConfig] = Field(default_factory=list, description="their weights multiply")
    seed: int = Field(0, description="of the copies drawn")
    output: OutputConfig = OutputConfig(path="runs/selected")
