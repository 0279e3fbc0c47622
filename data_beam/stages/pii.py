"""Personal information is masked; what was found is counted and nowhere repeated."""

from __future__ import annotations

from data_beam.document import Document, Drop
from data_beam.pii import EXAMPLE, NAMED, mask
from data_beam.pii.mask import CODE_KINDS
from maxllm.config.pii import PiiConfig

METADATA = "pii"


class MaskingError(Exception):
    """Says which kind of error stopped the masking, and nothing of the text it stopped on."""


class Pii:
    """Masks the text and writes `metadata.pii`: how many there were of each kind that occurs. Drops nothing.

    HTML passes as it is when extraction is off: masks belong into the text that is kept.
    """

    name = "pii"

    def __init__(self, config: PiiConfig) -> None:
        self.kinds = frozenset(config.kinds)
        self.code_kinds = self.kinds & set(CODE_KINDS)
        self.placeholders = NAMED if config.placeholders == "named" else EXAMPLE

    def __call__(self, document: Document) -> Document:
        return self.measure(document)

    def decide(self, document: Document) -> Document:
        return document

    def measure(self, document: Document) -> Document:
        """Masks, too, where rules only measure: what is written must not depend on what is decided."""
        kinds = self.code_kinds if document.metadata.get("content_type") == "code" else self.kinds
        try:
            text, counts = mask(document.text, kinds, self.placeholders)
        except Exception as error:
            # The message of an exception may quote the text, and messages end up in dead letters and logs.
            raise MaskingError(type(error).__name__) from None
        before = document.metadata.get(METADATA)
        if isinstance(before, dict):  # masked before, by an earlier run: its counts stay true
            counts = {kind: before.get(kind, 0) + counts.get(kind, 0) for kind in sorted({*before, *counts})}
        return document.with_text(text, **{METADATA: counts}) if counts or before else document


class PiiLimit:
    """Drops what had too much. A stage of its own, so that a dropped document is a masked one too."""

    name = "pii"

    def __init__(self, config: PiiConfig) -> None:
        self.max_count = config.max_count

    def __call__(self, document: Document) -> Document | Drop:
        found = sum(document.metadata.get(METADATA, {}).values())
        if self.max_count is not None and found > self.max_count:
            return Drop("pii.count", found)
        return document
