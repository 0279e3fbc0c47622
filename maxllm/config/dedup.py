"""Settings of duplicate removal: which copies are found, and by what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from maxllm.config.section import Section


class ExactDedupConfig(Section):
    """The same text but for white space; of such documents the oldest stays."""

    enabled: bool = True
    url: bool = Field(False, description="before that, of documents with the same URL, normalised, the oldest stays")


class FuzzyDedupConfig(Section):
    """MinHash-LSH: Broder 1997; 14 bands of 8 rows over word 5-grams is FineWeb's (threshold about 0.72)."""

    enabled: bool = True
    unit: Literal["word", "character"] = Field("word", description="of which n-grams are made")
    ngram: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    seed: int = 1
    rounds: PositiveInt = Field(3, description="of joining in one job; jobs follow until all is joined")


class DedupIndexConfig(Section):
    """Duplicates across sets: what one run keeps of its documents' hashes, later runs compare theirs with."""

    read: list[str] = Field(default_factory=list, description="folders of older sets; copies of their documents go")
    write: str | None = Field(None, description="a new folder for this set's; list it in later runs beside those read")

    @model_validator(mode="after")
    def _apart(self) -> DedupIndexConfig:
        if self.write in self.read:
            raise ValueError("write is one of read; an index never changes: give a new folder, and later read both")
        return self


class LineDedupConfig(Section):
    """Lines or paragraphs that an older document has too are removed. Wenzek et al. 2020 (CCNet, arXiv 1911.00359)."""

    enabled: bool = False
    unit: Literal["line", "paragraph"] = "line"
    min_words: NonNegativeInt = Field(3, description="one with fewer words and fewer characters than these stays")
    min_characters: NonNegativeInt = Field(30, description="for scripts that put no space between words")
    normalise: bool = Field(True, description="as CCNet compares: without case, accents, punctuation; digits alike")
    max_fraction_removed: float | None = Field(
        None, gt=0, le=1, description="of a document's characters; one that loses more is dropped"
    )
