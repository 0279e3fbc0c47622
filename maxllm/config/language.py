"""Settings of language identification."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maxllm.config.section import Section


class LanguageConfig(Section):
    """fastText lid.176; the mission's confidence is > 0.8, RefinedWeb's and FineWeb's 0.65."""

    enabled: bool = True
    model: str | None = Field(None, description="fastText model, e.g. lid.176.bin; the bundled lid.176.ftz when absent")
    languages: list[str] = Field(
        default_factory=lambda: ["en"], description="to keep, und among them if wanted; empty: all, und too"
    )
    min_confidence: float = Field(0.8, ge=0, le=1, description="at or below it the language is und")
    labels: list[str] = Field(
        default_factory=list, description="only these compete: for documents known to be in one of them; empty: all"
    )
    paragraphs: Literal["off", "label", "remove"] = Field(
        "off", description="label: shares of the text by language; remove: take out lines in languages not wanted"
    )

    @model_validator(mode="after")
    def _paragraphs(self) -> LanguageConfig:
        if self.paragraphs == "remove" and not self.languages:
            raise ValueError("paragraphs: remove takes out what is in none of `languages`, and that list is empty")
        return self
