"""The document contract, the verdicts on one, and nothing else.

A document is what dolma and datatrove read as it is: `{id, text, source, added, created, metadata}`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import xxhash


@dataclass(frozen=True, slots=True)
class Document:
    """One document. Times are ISO 8601 in UTC, so that they sort as text.

    `metadata` holds JSON values; keys with a meaning here: `url`, `language`, `language_confidence`, `group`
    (site, repository or top-level module: what the held-out split hashes), `content_type` (`text`, `html`, `code`).
    """

    id: str
    text: str
    source: str
    added: str
    created: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts oldest first: created, else added; ties by id. The definition of "oldest" everywhere."""
        return (self.created or self.added, self.id)

    def with_text(self, text: str, **metadata: Any) -> Document:
        return replace(self, text=text, metadata={**self.metadata, **metadata})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Document:
        return cls(
            id=str(record["id"]),
            text=record["text"],
            source=record.get("source", ""),
            added=record.get("added", ""),
            created=record.get("created"),
            metadata=record.get("metadata") or {},
        )


def document_id(source: str, location: str, index: int = 0) -> str:
    """128-bit hash, 32 hex digits, of (source, url or path, record index): never of the content."""
    return xxhash.xxh3_128_hexdigest(f"{source}\x00{location}\x00{index}".encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a document was dropped: `reason` is `stage.rule`, `value` what was measured."""

    reason: str
    value: float | int | str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to a document that was decided beside it: spans of characters [start, end) to take out, keys to add.

    Spans are offsets into the text as it was when the edit was made; they may overlap and touch. A text that is left
    with fewer than `min_words` words is dropped.
    """

    reason: str
    remove: tuple[tuple[int, int], ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    min_words: int = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """A dropped document with its reason, kept so that one can look."""

    document: Document
    drop: Drop


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A document that a stage failed on. `where` is the document's id, or file and record when it never got one."""

    where: str
    stage: str
    error: str
