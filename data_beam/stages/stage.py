"""What a stage is, and where what it measured is kept.

A stage is made once per worker from its own section of the config. One that measures (a score, a perplexity, rules'
signals) does it in `measure`, which puts the values into `metadata.signals` and finds them there the next time, and
decides in `decide` by them alone: thresholds can be changed and applied again without the text being read twice.
"""

from __future__ import annotations

from typing import Any, Protocol

from data_beam.document import Document, Drop, Rejected

SIGNALS = "signals"


class Stage(Protocol):
    """Never raises on bad text (what it raises all the same makes a dead letter) and never prints."""

    name: str

    def __call__(self, document: Document) -> Document | Drop | Rejected: ...


class MeasuringStage(Stage, Protocol):
    """`stage(document)` is `stage.decide(stage.measure(document))`, or a cheaper way to the same verdict."""

    def measure(self, document: Document) -> Document: ...

    def decide(self, document: Document) -> Document | Drop | Rejected: ...


def stored(document: Document, key: str, version: str) -> dict[str, Any] | None:
    """What was measured under `key` before, by the same version (of the code, with the model's fingerprint)."""
    values = (document.metadata.get(SIGNALS) or {}).get(key)
    return values if isinstance(values, dict) and values.get("version") == version else None


def store(document: Document, key: str, version: str, values: dict[str, Any]) -> Document:
    """`values` are JSON's: numbers, strings, lists and maps of them with string keys."""
    signals = {**(document.metadata.get(SIGNALS) or {}), key: {"version": version, **values}}
    return document.with_text(document.text, **{SIGNALS: signals})


def without_signals(document: Document) -> Document:
    if SIGNALS not in document.metadata:
        return document
    metadata = {key: value for key, value in document.metadata.items() if key != SIGNALS}
    return Document(document.id, document.text, document.source, document.added, document.created, metadata)
