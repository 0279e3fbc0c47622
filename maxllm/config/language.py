"""Settings of language identification."""

from __future__ import annotations

from pydantic import Field

from maxllm.config.section import Section


class LanguageConfig(Section):
    """fastText lid.176; the mission's confidence is > 0.8, RefinedWeb's and FineWeb's 0.65."""

    enabled: bool = True
    model: str | None = Field(None, description="path of lid.176.bin; the bundled lid.176.ftz when absent")
    languages: list[str] = Field(default_factory=lambda: ["en"])
    min_confidence: float = Field(0.8, ge=0, le=1)
