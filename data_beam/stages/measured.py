"""What was measured of a text, kept with the hash of that text: a stage may change it later, and then it is void."""

from __future__ import annotations

from typing import Any

from data_beam.document import Document
from data_beam.stages.stage import SIGNALS, store, stored
from data_beam.text.words import text_hash


def stored_of_text(document: Document, key: str, version: str) -> dict[str, Any] | None:
    """What was measured under `key`, by this version, of just this text."""
    if key not in (document.metadata.get(SIGNALS) or ()):
        return None  # without hashing the text, which a document that was never measured need not pay
    return stored(document, key, _version(document, version))


def store_of_text(document: Document, key: str, version: str, values: dict[str, Any]) -> Document:
    return store(document, key, _version(document, version), values)


def _version(document: Document, version: str) -> str:
    return f"{version}-{text_hash(document.text)}"
