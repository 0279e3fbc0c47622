"""A document's changed copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_beam.augment.draw import Draw
from data_beam.augment.noise import noisy_characters, noisy_words
from data_beam.augment.synonyms import load_table, with_synonyms
from data_beam.augment.variants import VARIANTS, shuffled_sentences
from data_beam.document import Document, document_id
from data_beam.stages.stage import without_signals
from maxllm.config.augment import AugmentConfig
from maxllm.config.errors import UserError


class Augment:
    """Makes `copies` of a document, those that came out like it or like each other left out.

    A copy has an id of its own, `augmented_from`, what was done in `augmentation`, and its original's group, so that
    both fall into the same split. Values measured on the original's text (`signals`) do not go with it.
    """

    name = "augment"

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.synonyms = load_table(config.synonyms.table) if config.synonyms.rate and config.synonyms.table else {}
        on = (config.variants.kinds, config.sentences.enabled, self.synonyms, config.words.rate, config.characters.rate)
        if not any(on):
            raise UserError("no transform is on; set one, e.g. characters.rate=0.02 or variants.kinds=[lower]")
        for name in ("words", "characters"):
            section = getattr(config, name)
            if section.rate and not section.kinds:
                raise UserError(f"{name}.kinds is empty; name at least one, or set {name}.rate=0")

    def changes(self, document: Document) -> bool:
        return self.config.code or document.metadata.get("content_type") != "code"

    def __call__(self, document: Document) -> Iterator[Document]:
        seen = {document.text}
        for number in range(1, self.config.copies + 1):
            text, record = self._changed(document, number)
            if text not in seen and text.strip():
                seen.add(text)
                yield self._copy(document, number, text, record)

    def _copy(self, document: Document, number: int, text: str, record: list[dict[str, Any]]) -> Document:
        original = without_signals(document)
        own = {
            "augmentation": record,
            "augmented_from": document.id,
            "group": str(document.metadata.get("group") or document.id),
        }
        name = document_id("augment", f"{document.id}\x00{self.config.seed}", number)
        return replace(original, id=name, text=text, metadata={**original.metadata, **own})

    def _changed(self, document: Document, number: int) -> tuple[str, list[dict[str, Any]]]:
        config, text = self.config, document.text
        record: list[dict[str, Any]] = []

        def draw(name: str) -> Draw:
            return Draw(config.seed, document.id, number, name)

        def add(name: str, changed: int, **settings: Any) -> None:
            record.append({"name": name, **settings, "seed": config.seed, "changed": changed})

        if config.variants.kinds:
            variant = draw("variants").choice(config.variants.kinds)
            before, text = text, VARIANTS[variant](text)
            add("variants", int(text != before), variant=variant)
        if config.sentences.enabled:
            text, changed = shuffled_sentences(text, draw("sentences"))
            add("sentences", changed)
        if config.synonyms.rate:
            text, changed = with_synonyms(text, config.synonyms.rate, self.synonyms, draw("synonyms"))
            add("synonyms", changed, rate=config.synonyms.rate)
        if config.words.rate:
            text, changed = noisy_words(text, config.words.rate, config.words.kinds, draw("words"))
            add("words", changed, rate=config.words.rate)
        if config.characters.rate:
            text, changed = noisy_characters(text, config.characters.rate, config.characters.kinds, draw("characters"))
            add("characters", changed, rate=config.characters.rate)
        return text, record
