"""Drops documents that contain evaluation items. What "contain" means is `mode`:

- `item`: at least `threshold` of an item's distinct word 13-grams are in the document, or a shorter item whole.
- `document`: at least `threshold` of the document's own 13-grams are some item's. The rule of DCLM's deduplication
  (BFF: n-gram 13, threshold 0.8; Li et al. 2024, arXiv 2406.11794) with the items as what was seen before. Llama 2
  (arXiv 2307.09288, appendix A.6) measures a share too, but of the evaluation sample's tokens: that is `item`'s side.
- `any`: a single 13-gram, or a shorter item whole. Brown et al. 2020 (arXiv 2005.14165, appendix C) for GPT-3;
  datatrove does so with `ngram: 12`.
"""

from __future__ import annotations

from typing import Any

from data_beam.decontaminate.index import Found, load_index
from data_beam.decontaminate.spans import spans, word_places
from data_beam.document import Document, Drop, Rejected
from data_beam.stages.stage import store, stored
from data_beam.text.signals import signals_of
from maxllm.config.decontaminate import DecontaminationConfig

KEY = "contamination"
MAX_ITEMS = 20  # written down for one document


class Decontaminate:
    """A drop's value names the item and how much was found; `metadata.contamination` of a dropped document lists
    the items with the spans where they stand."""

    name = "decontamination"

    def __init__(self, config: DecontaminationConfig) -> None:
        self.config = config
        self.index = load_index(config)
        self.version = f"1-{self.index.fingerprint}"

    def __call__(self, document: Document) -> Document | Rejected:
        found = self.index.find(signals_of(document.text).normalised_hashes)
        if found is None or not self._over(found.share, found.hits[0].fraction):
            return document
        return self._verdict(document, self._values(document.text, found))

    def measure(self, document: Document) -> Document:
        if stored(document, KEY, self.version) is not None:
            return document
        found = self.index.find(signals_of(document.text).normalised_hashes)
        values = {"share": 0.0, "items": []} if found is None else self._values(document.text, found)
        return store(document, KEY, self.version, values)

    def decide(self, document: Document) -> Document | Rejected:
        values = stored(document, KEY, self.version) or {"share": 0.0, "items": []}
        return self._verdict(document, values)

    def _verdict(self, document: Document, values: dict[str, Any]) -> Document | Rejected:
        items = values["items"]
        if not items or not self._over(values["share"], items[0]["fraction"]):
            return document
        best = items[0]
        if self.config.mode == "document":
            drop = Drop("decontamination.document_share", f"{best['item']} ({values['share']:.2f} of the document)")
        elif self.config.mode == "any":
            drop = Drop("decontamination.any_ngram", f"{best['item']} ({best['fraction']:.2f})")
        else:
            items = [item for item in items if item["fraction"] >= self.config.threshold]
            drop = Drop("decontamination.ngram_overlap", f"{best['item']} ({best['fraction']:.2f})")
        return Rejected(document.with_text(document.text, **{KEY: items}), drop)

    def _over(self, share: float, fraction: float) -> bool:
        """`share` of the document, `fraction` of the item found most completely."""
        if self.config.mode == "any":
            return fraction > 0
        return (share if self.config.mode == "document" else fraction) >= self.config.threshold

    def _values(self, text: str, found: Found) -> dict[str, Any]:
        hashes, places = signals_of(text).normalised_hashes, word_places(text)
        items = [
            {
                "item": self.index.names[hit.number],
                "fraction": hit.fraction,
                "spans": spans(text, places, self.index.words_found(hashes, hit.number)),
            }
            for hit in found.hits[:MAX_ITEMS]
        ]
        return {"share": found.share, "items": items}
