"""Settings of toxicity and adult-content filters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class WordListConfig(Section):
    """C4's rule: a page with any of the words is toxic."""

    files: dict[str, str] = Field(
        default_factory=dict,
        description="language code: path of a list, a word or phrase a line, as LDNOOBW's; `any`: for all languages",
    )
    max_matches: int = Field(0, ge=0, description="more occurrences than this are toxic")


class ToxicityModelConfig(Section):
    """A classifier, as in `classifiers`: a folder that `maxllm classifier train` wrote, a fastText file, ..."""

    model: str | None = None
    score: str = Field("score", description="which of the model's scores is the probability of toxic: HEAD, HEAD.LABEL")
    label: str | None = Field(None, description="of a bare fastText file: the label that means toxic")
    below: float = Field(0.5, description="a score of this or more is toxic")


class PerspectiveConfig(Section):
    """Jigsaw's web service, which ends on 31 December 2026. The key is read from an environment variable."""

    enabled: bool = False
    attribute: str = "TOXICITY"
    below: float = Field(0.5, gt=0, le=1, description="a score of this or more is toxic")
    requests_per_second: float = Field(1.0, gt=0, description="the quota, of all processes that share the cache")
    cache: str = Field("runs/perspective.sqlite", description="scores by hash of the text; a local file")
    key_variable: str = Field("PERSPECTIVE_API_KEY", description="the environment variable that holds the key")
    url: str = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze"
    attempts: PositiveInt = Field(6, description="of one request, waiting longer each time, when busy or broken")
    timeout_seconds: float = Field(30.0, gt=0)


class ToxicityConfig(Section):
    """A document is toxic when any method that is set up says so."""

    enabled: bool = False
    keep: Literal["clean", "toxic", "all"] = Field(
        "clean",
        description="toxic: the inverse filter, for a model that shall identify toxicity; all: write scores only",
    )
    keep_fraction: float = Field(0.0, ge=0, le=1, description="of the documents that would go, keep this share, by id")
    seed: int = 0
    words: WordListConfig = WordListConfig()
    classifier: ToxicityModelConfig = ToxicityModelConfig()
    perspective: PerspectiveConfig = PerspectiveConfig()

    @model_validator(mode="after")
    def _methods(self) -> ToxicityConfig:
        if self.enabled and not (self.words.files or self.classifier.model or self.perspective.enabled):
            raise ValueError("is enabled without a method; give words.files, classifier.model or perspective.enabled")
        return self
