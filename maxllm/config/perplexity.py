"""Settings of perplexity filtering by n-gram models, and of `maxllm ngram`, which trains such models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section

Bucket = Literal["head", "middle", "tail"]


class PreparationConfig(Section):
    """How a line of text becomes the words of an n-gram model: the same when it is trained and when it scores."""

    normalisation: Literal["none", "ccnet"] = Field(
        "none", description="ccnet: lower case, no accents, digits to 0, ASCII punctuation, no control characters"
    )
    tokenizer: str | None = Field(
        None, description="a SentencePiece .model or another tokenizer; words between white space when absent"
    )


class PerplexityConfig(Section):
    """Perplexity under n-gram models, per language. The mission's threshold is 5,000."""

    enabled: bool = False
    models: dict[str, str] = Field(
        default_factory=dict,
        description="a model by language, '*' for all others: a folder of `maxllm ngram`, an ARPA file, KenLM's binary",
    )
    preparation: PreparationConfig | None = Field(
        None,
        description="of models without an ngram.json beside them; {language} stands for it in the tokenizer's path",
    )
    max_perplexity: float | None = Field(5000.0, gt=0, description="a document above it is dropped")
    buckets: bool = Field(False, description="mark documents head, middle or tail within their language, as CCNet does")
    head: float = Field(1 / 3, gt=0, lt=1, description="the share of documents that is head; CCNet's code has .3")
    tail: float = Field(1 / 3, gt=0, lt=1, description="the share of documents that is tail; CCNet's code has .4")
    keep_buckets: list[Bucket] = ["head", "middle", "tail"]

    @model_validator(mode="after")
    def _consistent(self) -> PerplexityConfig:
        if self.enabled and not self.models:
            raise ValueError("models is empty; name a model by language, e.g. models: {en: runs/ngram}, or '*' for all")
        if self.head + self.tail > 1 + 1e-9:
            raise ValueError(f"head {self.head} and tail {self.tail} are more than all documents together")
        if not self.keep_buckets:
            raise ValueError("keep_buckets is empty; name at least one of head, middle, tail")
        return self


class NgramConfig(Section):
    """Modified Kneser-Ney, as KenLM's lmplz estimates it."""

    kind: Literal["ngram"] = "ngram"
    documents: list[str] = Field(default_factory=list, description="globs of curated JSON lines or Parquet")
    output: str = "runs/ngram"
    order: PositiveInt = Field(5, le=10, description="KenLM's Python package reads orders up to 6 as it is built")
    prune: list[int] = Field(
        default_factory=list, description="drop n-grams seen this often or less, by order; the last holds for the rest"
    )
    discount_fallback: list[float] | None = Field(
        None, description="D1, D2, D3+ of orders whose text is too small or odd to estimate them, e.g. [0.5, 1, 1.5]"
    )
    preparation: PreparationConfig = PreparationConfig()
    format: Literal["arpa", "arpa.gz"] = "arpa"
    shards: PositiveInt | None = Field(
        None, description="parts a worker holds in memory one at a time; one for each 4 MB of text when absent"
    )

    @model_validator(mode="after")
    def _consistent(self) -> NgramConfig:
        if len(self.prune) > self.order:
            raise ValueError(f"prune has {len(self.prune)} thresholds and the model only order {self.order}")
        if sorted(self.prune) != self.prune or any(threshold < 0 for threshold in self.prune):
            raise ValueError(f"prune {self.prune} must not decrease: else an n-gram would outlive its own suffix")
        if self.discount_fallback is not None:
            if len(self.discount_fallback) != 3:
                raise ValueError("discount_fallback wants three discounts, for counts 1, 2 and 3 or more")
            for count, discount in enumerate(self.discount_fallback, 1):
                if not 0 <= discount <= count:
                    raise ValueError(f"discount_fallback: {discount} for count {count} is not in [0, {count}]")
        return self

    def prune_thresholds(self) -> list[int]:
        """One for each order."""
        last = self.prune[-1] if self.prune else 0
        return [*self.prune, *[last] * (self.order - len(self.prune))]
