"""Language identification: of the document, and of its paragraphs when asked."""

from __future__ import annotations

import json
from typing import Any

import xxhash

from data_beam.document import Document, Drop
from data_beam.stages.measured import store_of_text, stored_of_text
from data_beam.text.language import UNDETERMINED, load_model, paragraphs, shares
from maxllm.config.language import LanguageConfig

VERSION = "1"


class Language:
    """Writes `language` and `language_confidence`, and drops what is in none of the wanted languages.

    A label counts only above the confidence asked for; at or below it the language is `und`. An empty list of
    languages keeps everything. Source code passes as it is: it is in no natural language.

    With `paragraphs`, `language_shares` says how much of the text is in which language; `remove` takes out the
    paragraphs that are surely in a language not wanted, and leaves the undetermined ones: headings and names.
    """

    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.languages = frozenset(config.languages)
        self.labels = frozenset(config.labels)
        self.model = load_model(config.model)
        self.model.check_labels(config.labels, "labels")
        self.model.check_labels(self.languages - {UNDETERMINED}, "languages")
        among = xxhash.xxh3_64_hexdigest(json.dumps(sorted(self.labels)).encode()) if self.labels else "all"
        # What was measured with paragraphs serves without them too.
        units = ["document", "paragraphs"] if config.paragraphs == "off" else ["paragraphs"]
        self.versions = [f"{VERSION}-{self.model.fingerprint}-{among}-{unit}" for unit in units]

    def measure(self, document: Document) -> Document:
        if _is_code(document) or self._stored(document):
            return document
        return store_of_text(document, self.name, self.versions[0], self.measured(document.text))

    def measured(self, text: str) -> dict[str, Any]:
        """`label`, `confidence`, and `paragraphs`: [label, confidence, characters] of each."""
        label, confidence = self.model.identify(text, self.labels)
        values: dict[str, Any] = {"label": label, "confidence": confidence}
        if self.config.paragraphs != "off":
            values["paragraphs"] = []
            for paragraph in paragraphs(text):
                name, sure = self.model.identify(paragraph, self.labels)
                values["paragraphs"].append([name, round(sure, 4), len(paragraph)])
        return values

    def decide(self, document: Document) -> Document | Drop:
        if _is_code(document):
            return document
        # Measured here when `measure` has not been.
        values = self._stored(document) or self.measured(document.text)
        language, confidence = values["label"], values["confidence"]
        if not confidence > self.config.min_confidence:
            language = UNDETERMINED
        if self.languages and language not in self.languages:
            if language == UNDETERMINED:
                return Drop("language.low_confidence", round(confidence, 4))
            return Drop("language.not_wanted", language)
        metadata = {"language": language, "language_confidence": round(confidence, 4)}
        if self.config.paragraphs == "off":
            return document.with_text(document.text, **metadata)
        metadata["language_shares"] = shares(values["paragraphs"], self.config.min_confidence)
        text = document.text
        if self.config.paragraphs == "remove" and (foreign := self._foreign(values["paragraphs"])):
            text = _without(text, foreign)
            metadata["language_paragraphs_removed"] = len(foreign)
            if not text.strip():
                return Drop("language.no_paragraph_left", len(foreign))
        return document.with_text(text, **metadata)

    __call__ = decide

    def _stored(self, document: Document) -> dict[str, Any] | None:
        found = (stored_of_text(document, self.name, version) for version in self.versions)
        return next((values for values in found if values), None)

    def _foreign(self, labelled: list[tuple[str, float, int]]) -> set[int]:
        """Numbers of the paragraphs that are surely in a language not wanted."""
        sure = self.config.min_confidence
        return {
            number
            for number, (label, confidence, _) in enumerate(labelled)
            if confidence > sure and label not in self.languages
        }


def _without(text: str, numbers: set[int]) -> str:
    """The text without the paragraphs of these numbers; blank lines stay."""
    left, number = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            if number not in numbers:
                left.append(line)
            number += 1
        else:
            left.append(line)
    return "".join(left)


def _is_code(document: Document) -> bool:
    return document.metadata.get("content_type") == "code"
