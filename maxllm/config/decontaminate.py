"""Settings of decontamination, and of its reverse: `maxllm contamination`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class ItemsConfig(Section):
    """Evaluation items, and what counts as finding one. Each of `text_keys` that a line has is a text of the item."""

    paths: list[str] = Field(default_factory=list, description="files or globs of JSON lines, an evaluation item each")
    text_keys: list[str] = Field(
        default_factory=lambda: ["text", "question", "answer"], description="of a line: a text or a list of texts"
    )
    tasks: list[str] = Field(default_factory=list, description="lm-eval tasks by name (needs maxllm[eval])")
    data_files: dict[str, str] = Field(
        default_factory=dict, description="task: local JSON lines file or folder; else lm-eval loads the task's own"
    )
    ngram: PositiveInt = 13
    threshold: float = Field(0.8, gt=0, le=1, description="share of n-grams found, of the item's or the document's")
    min_words: PositiveInt = Field(5, description="shorter texts, such as an answer that is a number, are left out")


class DecontaminationConfig(ItemsConfig):
    """Text overlapping an evaluation item drops the document."""

    enabled: bool = True
    mode: Literal["item", "document", "any"] = Field(
        "item", description="threshold of an item's n-grams, or of the document's; any: a single n-gram"
    )


class ContaminationConfig(Section):
    """The reverse check: which evaluation items occur in documents that a model was, or will be, trained on."""

    kind: Literal["contamination"] = "contamination"
    documents: list[str] = Field(default_factory=list, description="curated files or globs: JSON lines or Parquet")
    items: ItemsConfig = ItemsConfig()
    output: str = Field("runs/contamination", description="folder of the report and the clean and dirty items")
