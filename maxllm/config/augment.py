"""Settings of `maxllm augment`: changed copies of documents, made without a language model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.curate import OutputConfig
from maxllm.config.section import Section

CharacterKind = Literal["keyboard", "ocr", "swap", "delete", "insert"]
WordKind = Literal["drop", "swap", "repeat"]
Variant = Literal[
    "lower",
    "upper",
    "one_line",
    "wrapped",
    "no_punctuation",
    "ascii_punctuation",
    "curly_quotes",
    "no_accents",
    "plain",
]


class CharacterNoiseConfig(Section):
    """Typing and scanning errors in letters and digits; white space and punctuation stay."""

    rate: float = Field(0.0, ge=0, le=1, description="the probability of each letter or digit to be hit; 0: off")
    kinds: list[CharacterKind] = ["keyboard", "ocr", "swap", "delete", "insert"]


class WordNoiseConfig(Section):
    rate: float = Field(0.0, ge=0, le=1, description="the probability of each word to be hit; 0: off")
    kinds: list[WordKind] = ["drop", "swap", "repeat"]


class SynonymConfig(Section):
    rate: float = Field(0.0, ge=0, le=1, description="the probability of each word that has synonyms; 0: off")
    table: str | None = Field(
        None, description="yours: .tsv, a line a word, then its synonyms; or .json, {word: [synonym, ...]}"
    )

    @model_validator(mode="after")
    def _table(self) -> SynonymConfig:
        if self.rate and self.table is None:
            raise ValueError("synonyms.rate needs synonyms.table, the path of a .tsv or .json table of synonyms")
        return self


class SentenceShuffleConfig(Section):
    enabled: bool = Field(False, description="the sentences of each paragraph in another order")


class VariantsConfig(Section):
    """Another form of the same text: one of these, drawn for each copy."""

    kinds: list[Variant] = Field(default_factory=list, description="empty: off")


class AugmentConfig(Section):
    """What is on happens to every copy, in this order: variants, sentences, synonyms, words, characters."""

    kind: Literal["augment"] = "augment"
    documents: list[str] = Field(default_factory=list, description="globs of curated JSON lines or Parquet")
    copies: PositiveInt = Field(1, description="of each document, each with errors of its own")
    keep_original: bool = Field(True, description="false: originals of which there are copies go to rejected/")
    code: bool = Field(False, description="change source code too, which breaks its syntax; else it passes as it is")
    seed: int = 0
    variants: VariantsConfig = VariantsConfig()
    sentences: SentenceShuffleConfig = SentenceShuffleConfig()
    synonyms: SynonymConfig = SynonymConfig()
    words: WordNoiseConfig = WordNoiseConfig()
    characters: CharacterNoiseConfig = CharacterNoiseConfig()
    output: OutputConfig = Field(OutputConfig(path="runs/augmented"), description="output.source: of the copies")
