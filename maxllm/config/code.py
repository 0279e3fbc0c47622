"""Settings of the stages that look at source code."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class CodeConfig(Section):
    """Source files must parse. Documents whose metadata.content_type is `code` take this instead of prose rules."""

    enabled: bool = True
    max_characters: PositiveInt = Field(1_000_000, description="longer files are dropped, unparsed")
