"""Settings of masking personal information."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt

from maxllm.config.section import Section

Kind = Literal["email", "ip", "phone", "card", "iban", "ssn", "key", "password"]


class PiiConfig(Section):
    """What is found is masked in the text and counted in metadata.pii; the strings themselves go nowhere."""

    enabled: bool = False
    kinds: list[Kind] = Field(
        ["email", "ip", "phone", "card", "iban", "ssn", "key", "password"],
        description="in source code only email, ip, key and password are looked for",
    )
    placeholders: Literal["named", "example"] = Field(
        "named", description="|||EMAIL_ADDRESS||| and the like (dolma), or reserved values: email@example.com (FineWeb)"
    )
    max_count: NonNegativeInt | None = Field(
        None, description="a document with more finds is dropped, already masked; dolma drops above 5"
    )
