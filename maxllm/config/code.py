"""Settings of the stages that look at source code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from maxllm.config.section import Section


class CodeQuality(Section):
    """Rules of StarCoder (arXiv 2305.06161), StarCoder2 (2402.19173) and SantaCoder (2301.03988). null: off."""

    enabled: bool = False
    max_lines: int | None = Field(100_000, description="StarCoder2")
    max_line_length: int | None = Field(1000, description="StarCoder, StarCoder2; markup and text up to 100,000")
    max_mean_line_length: float | None = Field(100, description="the same; not of markup and text")
    min_alphabetic_fraction: float | None = Field(0.25, description="of characters; StarCoder2")
    min_alphanumeric_fraction: float | None = Field(0.25, description="of characters; Codex, StarCoder")
    max_encoded_run: int | None = Field(
        1024, description="characters of base64, hexadecimal or \\u escapes; StarCoder2"
    )
    max_encoded_fraction: float | None = Field(0.5, description="of characters; StarCoder2")
    min_comment_fraction: float | None = Field(0.01, description="of characters, docstrings too; SantaCoder, StarCoder")
    max_comment_fraction: float | None = Field(0.8, description="the same")
    drop_generated: bool = Field(True, description="says so in its first 5 lines (StarCoder2), or has such a name")
    drop_minified: bool = Field(True, description="CSS and JavaScript, lines of more than 110 on average (Linguist)")
    drop_xml: bool = Field(True, description="<?xml version= in the first 100 characters, save XSLT; StarCoder")
    min_visible_fraction: float | None = Field(0.2, description="of HTML's characters; StarCoder")
    min_visible_characters: int | None = Field(100, description="of HTML; StarCoder")
    min_data_characters: int | None = Field(50, description="of JSON and YAML; StarCoder")
    max_data_characters: int | None = Field(5000, description="of JSON and YAML; StarCoder")
    max_data_lines: int | None = Field(512, description="of JSON, YAML, text, OWL, DOT; StarCoder2")


class LicenseConfig(Section):
    """What the head of a file says of its licence, else what metadata says of its repository's: metadata.license."""

    enabled: bool = False
    allow: list[str] = Field(
        default_factory=list, description="SPDX ids, or `permissive`; an OR needs one of them, an AND all. Empty: any"
    )
    deny: list[str] = Field(default_factory=list, description="SPDX ids, or `copyleft`; wins over allow")
    unknown: Literal["keep", "drop"] = Field("keep", description="when neither file nor repository says")
    strip_header: bool = Field(False, description="takes out leading comments that speak of copyright or licence")


class CodeConfig(Section):
    """Source files must parse. Documents whose metadata.content_type is `code` take this instead of prose rules."""

    enabled: bool = True
    every_document: bool = Field(False, description="all are code, whatever metadata.content_type says")
    syntax: bool = Field(True, description="files in a language with a parser must parse; the others pass")
    max_error_fraction: dict[str, float] = Field(
        default_factory=dict,
        description="share of bytes in syntax errors by language, in place of the built-in: C and C++ 0.02, most none",
    )
    max_characters: PositiveInt = Field(1_000_000, description="longer files are dropped, unparsed")
    timeout_seconds: PositiveFloat = Field(10.0, description="a file whose parser takes longer becomes a dead letter")
    quality: CodeQuality = CodeQuality()
    license: LicenseConfig = LicenseConfig()
