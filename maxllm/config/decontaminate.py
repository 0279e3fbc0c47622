"""Settings of decontamination."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class DecontaminationConfig(Section):
    """Text overlapping an evaluation item drops the document. Each of `text_keys` that a line has is an item."""

    enabled: bool = True
    paths: list[str] = Field(default_factory=list, description="files or globs of JSON lines, an evaluation item each")
    text_keys: list[str] = Field(default_factory=lambda: ["text", "question", "answer"])
    ngram: PositiveInt = 13
    threshold: float = Field(0.8, gt=0, le=1, description="share of an item's n-grams found in the document")
    min_words: PositiveInt = Field(5, description="shorter items, such as an answer that is a number, are left out")
