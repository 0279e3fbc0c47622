"""Toxic and adult text: by word lists, by a classifier, by the Perspective API; kept out, or nothing else kept.

Drops and metadata have scores and counts, never a word of the text or of a list.
"""

from __future__ import annotations

from typing import Any

import xxhash

from data_beam.classify.badwords import WordMatcher
from data_beam.classify.classifier import fingerprint, load_classifier
from data_beam.document import Document, Drop
from data_beam.stages.classify import is_code
from data_beam.stages.files import read_lines
from data_beam.stages.stage import store, stored
from maxllm.config.classify import ClassifierConfig
from maxllm.config.errors import UserError
from maxllm.config.toxicity import ToxicityConfig

ANY = "any"
VERSION = "1"


class Toxicity:
    """`metadata.toxicity` has `words` (occurrences), `classifier` and `perspective` (probabilities), as far as set up.

    `keep: clean` drops what any method finds toxic (`toxicity.words`, ...); `keep: toxic` what none does
    (`toxicity.clean`); of either, `keep_fraction` stays, chosen by a hash of the id. Source code passes as it is.
    """

    name = "toxicity"

    def __init__(self, config: ToxicityConfig) -> None:
        self.config = config
        self.matchers = {language: _matcher(language, path) for language, path in config.words.files.items()}
        parts = [matcher.version for _, matcher in sorted(self.matchers.items())]
        self.model, self.perspective = None, None
        if config.classifier.model:
            named = ClassifierConfig(name="toxicity", model=config.classifier.model, label=config.classifier.label)
            self.model = load_classifier(named)
            if config.classifier.score not in self.model.keys:
                known = ", ".join(self.model.keys[:30])
                raise UserError(
                    f"toxicity.classifier.score: {config.classifier.score} is no score of the model; it has {known}"
                )
            parts += [self.model.version, config.classifier.score]
        if config.perspective.enabled:
            from data_beam.classify.perspective import Perspective

            self.perspective = Perspective(config.perspective)
            parts.append(f"perspective {config.perspective.attribute}")
        self.version = f"{VERSION}-{fingerprint(*parts)}"

    def __call__(self, document: Document) -> Document | Drop:
        return self.decide(self.measure(document))

    def measure(self, document: Document) -> Document:
        if is_code(document) or stored(document, self.name, self.version) is not None:
            return document
        values: dict[str, Any] = {}
        if self.matchers:
            values["words"] = self._words(document)
        if self.model is not None:
            values["classifier"] = self.model.score([document.text])[0][self.config.classifier.score]
        if self.perspective is not None:
            score = self.perspective.score(document.text)
            values["perspective"] = None if score is None else round(score, 6)
        return store(document, self.name, self.version, values)

    def decide(self, document: Document) -> Document | Drop:
        if is_code(document):
            return document
        values = stored(document, self.name, self.version)
        if values is None:
            raise LookupError("toxicity was not measured with these lists and this model")
        scores = {key: value for key, value in values.items() if key != "version"}
        found = self._found(scores)
        kept = document.with_text(document.text, toxicity=scores)
        keep = self.config.keep
        if keep == "all" or (found is None) == (keep == "clean"):
            return kept
        if self._lucky(document.id):
            return kept
        if found is None:
            return Drop(f"{self.name}.clean", max((v for v in scores.values() if v is not None), default=None))
        return Drop(f"{self.name}.{found}", scores[found])

    def _words(self, document: Document) -> int:
        """By the lists of the document's language and of any; by all, where its language is not known."""
        language = document.metadata.get("language")
        known = isinstance(language, str) and language not in ("", "und")
        wanted = [ANY, language] if known else list(self.matchers)
        return sum(self.matchers[name].count(document.text) for name in wanted if name in self.matchers)

    def _found(self, scores: dict[str, Any]) -> str | None:
        """The first method that says toxic."""
        config = self.config
        if scores.get("words", 0) > config.words.max_matches:
            return "words"
        for name, below in (("classifier", config.classifier.below), ("perspective", config.perspective.below)):
            if scores.get(name) is not None and scores[name] >= below:
                return name
        return None

    def _lucky(self, identity: str) -> bool:
        hashed = xxhash.xxh3_64_intdigest(f"toxicity\0{self.config.seed}\0{identity}".encode())
        return hashed / 2**64 < self.config.keep_fraction


def _matcher(language: str, path: str) -> WordMatcher:
    setting = f"toxicity.words.files.{language}"
    matcher = WordMatcher(read_lines(path, setting), language)
    if not len(matcher):
        raise UserError(f"{setting}: {path} has no words in it; give a list with a word or phrase a line")
    return matcher
