"""Settings of duplicate removal: which copies are found, and by what."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class ExactDedupConfig(Section):
    enabled: bool = True


class FuzzyDedupConfig(Section):
    """MinHash-LSH: Broder 1997; 14 bands of 8 rows over word 5-grams is FineWeb's (threshold about 0.72)."""

    enabled: bool = True
    ngram: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    seed: int = 1
    rounds: int = Field(2, ge=0, description="of joining in parallel before one worker ends it; same result for any")


class LineDedupConfig(Section):
    """Lines and paragraphs that other documents have too are removed from all but the oldest."""

    enabled: bool = False
