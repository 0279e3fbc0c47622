"""Settings of model-based quality: classifiers that score documents, and how they are trained."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class ScoreRule(Section):
    """Which scores stay. Every bound given must hold; without any, the score is only written down."""

    above: float | None = Field(None, description="the score must be greater than this")
    min_score: float | None = Field(None, description="the score must be this or greater")
    below: float | None = Field(None, description="the score must be less than this")
    max_score: float | None = Field(None, description="the score must be this or less")
    keep_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of all documents that come this far, keep this share: the highest scores, with ties",
    )
    per_language: bool = Field(False, description="keep_fraction of each language's documents, not of all")

    def failed(self, score: float) -> str | None:
        """The name of the first bound that `score` fails; keep_fraction is decided over the whole run, not here."""
        if self.above is not None and not score > self.above:
            return "above"
        if self.min_score is not None and not score >= self.min_score:
            return "min_score"
        if self.below is not None and not score < self.below:
            return "below"
        if self.max_score is not None and not score <= self.max_score:
            return "max_score"
        return None


class ClassifierConfig(Section):
    """One model with one or more heads, applied to every document. Scores are kept in the document's metadata."""

    name: str = Field(description="of this model; its scores are metadata.scores.NAME")
    model: str = Field(
        description="a folder that `maxllm classifier train` wrote, a fastText .bin or .ftz file, "
        "or a Hugging Face sequence-classification model: its folder or its name"
    )
    label: str | None = Field(None, description="of a bare fastText file: the label whose probability is the score")
    clamp: tuple[float, float] | None = Field(
        None, description="of a regression head: scores outside of it become its ends"
    )
    rules: dict[str, ScoreRule] = Field(
        default_factory=dict, description="by name of the score: HEAD, HEAD.LABEL, or `score` for a model with one"
    )

    @model_validator(mode="after")
    def _name(self) -> ClassifierConfig:
        if not self.name or "." in self.name:
            raise ValueError(
                f"name {self.name!r} must be a word without dots: reasons and metadata keys are made of it"
            )
        return self


class LabelledFiles(Section):
    """Texts with labels: JSON lines, CSV or TSV with a header, or a text a line; each also `.gz` or `.zst`."""

    paths: list[str] = Field(description="files or globs")
    text_key: str = "text"
    label_key: str = Field("label", description="not used when `label` says what all of these are")
    label: str | None = Field(None, description="the label of every text in these files")


class HeadConfig(Section):
    """One thing to predict: a class, or a number by way of bins."""

    data: list[LabelledFiles]
    labels: list[str] = Field(default_factory=list, description="all that may occur, in order; as found when empty")
    positive: str | None = Field(None, description="the label whose probability is the head's score")
    bins: list[float] = Field(
        default_factory=list,
        description="labels are numbers: the edges that cut them into classes; the score is the expected value",
    )
    positive_from: float | None = Field(None, description="with bins: a label of this or more counts as positive")

    @model_validator(mode="after")
    def _consistent(self) -> HeadConfig:
        if not self.data:
            raise ValueError("data is empty; name files with labelled texts")
        if self.bins and (self.labels or self.positive is not None):
            raise ValueError("bins makes labels of numbers, so that labels and positive have no meaning beside it")
        if self.bins != sorted(set(self.bins)) or not all(map(math.isfinite, self.bins)):
            raise ValueError(f"bins {self.bins} must ascend: they are the edges between one class and the next")
        if self.positive_from is not None and not self.bins:
            raise ValueError("positive_from goes with bins; a class is named by positive")
        if self.labels and self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {self.labels}")
        return self


class FastTextConfig(Section):
    """fastText's own names in other words: its `minCount`, `wordNgrams`, `minn` and `maxn` are here spelled out."""

    dim: PositiveInt = 32
    epochs: PositiveInt | None = Field(
        None, description="when absent: as many as make 25,000 steps of one text each, but from 5 to 100"
    )
    learning_rate: float = Field(0.5, gt=0)
    word_ngrams: PositiveInt = 2
    min_count: PositiveInt = Field(2, description="words seen less often are read by their n-grams only")
    characters: tuple[int, int] | None = Field(None, description="shortest and longest character n-gram; null for none")
    buckets: PositiveInt = Field(
        1 << 18, description="rows for hashed n-grams: 4 * dim * buckets bytes of model, 32 MiB as it stands"
    )


class ClassifierTrainConfig(Section):
    kind: Literal["classifier"] = "classifier"
    output: str = "runs/classifier"
    heads: dict[str, HeadConfig] = Field(default_factory=dict, description="by name; each is trained on its own data")
    fasttext: FastTextConfig = FastTextConfig()
    calibration_fraction: float = Field(0.1, ge=0, lt=1, description="of the texts: temperature and threshold")
    test_fraction: float = Field(0.1, ge=0, lt=1, description="of the texts: the report's figures")
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> ClassifierTrainConfig:
        if self.calibration_fraction + self.test_fraction >= 1:
            raise ValueError("calibration_fraction and test_fraction leave no text to train on")
        for name in self.heads:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"heads: {name!r} must be of letters, digits, - and _: files are named after it")
        return self
