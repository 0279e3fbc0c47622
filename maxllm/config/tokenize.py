"""Settings of `maxllm tokenize`: a tokenizer, trained here or brought along, and the token shards it writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class TokenizerConfig(Section):
    """Give `path` for an existing tokenizer (a SentencePiece .model or a Hugging Face tokenizer.json);
    without it one is trained on the documents."""

    path: str | None = None
    algorithm: Literal["bpe", "unigram"] = "bpe"
    vocab_size: PositiveInt = 4096
    special_tokens: list[str] = Field(
        default_factory=lambda: ["<|im_start|>", "<|im_end|>"],
        description="beside those for unknown, beginning, end and padding",
    )
    training_bytes: PositiveInt = Field(10_000_000, description="a seeded sample of the documents of about this size")
    seed: int = 0

    @model_validator(mode="after")
    def _room(self) -> TokenizerConfig:
        fixed = 256 + 4 + len(self.special_tokens)
        if self.path is None and self.vocab_size <= fixed:
            raise ValueError(f"vocab_size {self.vocab_size} leaves no room beside {fixed} bytes and special tokens")
        return self


class HeldOutConfig(Section):
    """The held-out split: a hash of the document's group, so that near copies never straddle it."""

    fraction: float = Field(0.05, ge=0, lt=1)
    seed: int = 0


class TokenizeConfig(Section):
    kind: Literal["tokenize"] = "tokenize"
    documents: list[str] = Field(default_factory=list, description="globs of curated JSON lines or Parquet")
    output: str = "runs/tokens"
    tokenizer: TokenizerConfig = TokenizerConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    sequence_lengths: list[PositiveInt] = Field(
        default_factory=lambda: [256], description="packings planned now; others can be added later"
    )
    shards: PositiveInt = Field(4, description="ArrayRecord files per source and split")

    @model_validator(mode="after")
    def _consistent(self) -> TokenizeConfig:
        if not self.sequence_lengths:
            raise ValueError("sequence_lengths is empty; name at least one length to pack")
        return self
