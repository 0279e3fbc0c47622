"""fastText models (Joulin et al. 2016, arXiv 1607.01759): our own with one or more heads, and others' bare files."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_beam.classify.calibration import SMALLEST, scaled
from data_beam.classify.classifier import DIGITS, MODEL, fingerprint
from data_beam.classify.fasttext_format import check_whole
from data_beam.classify.text import LABEL, bare_line, line_of
from maxllm.config.errors import UserError

FORMAT = 1
SCORE = "score"
ADDED = 1e-5


@dataclass(frozen=True)
class Head:
    """One head as `model.json` has it. `labels` are in the order of probabilities; with bins, `values` are theirs."""

    name: str
    file: str
    labels: list[str]
    positive: str | None = None
    values: list[float] | None = None
    temperature: float = 1.0
    threshold: float | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        if self.values is not None:
            return (self.name,)
        own = (self.name,) if self.positive is not None else ()
        return own + tuple(f"{self.name}.{label}" for label in self.labels)

    def scores(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        """`probabilities`: [labels], calibrated."""
        if self.values is not None:
            return {self.name: round(float(probabilities @ np.array(self.values)), DIGITS)}
        rounded = [round(float(value), DIGITS) for value in probabilities]
        own = {self.name: rounded[self.labels.index(self.positive)]} if self.positive is not None else {}
        return own | dict(zip((f"{self.name}.{label}" for label in self.labels), rounded, strict=True))


def fasttext_label(label: str) -> str:
    """A label as a word of fastText's: what white space it has becomes `_`."""
    return LABEL + "_".join(label.split())


class Probabilities:
    """A .bin or .ftz file, asked for the probabilities of all its labels."""

    def __init__(self, path: str, setting: str) -> None:
        # The fasttext-predict package: fastText's own 0.9.3 fails on NumPy 2.
        import fasttext

        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_whole(data)
            self.model = fasttext.load_model(path)
        except (OSError, ValueError, MemoryError) as error:
            raise UserError(
                f"{setting}: {path} is not a whole fastText model: {error}; copy or train it again"
            ) from None
        self.labels = sorted(self.model.predict("", k=-1)[0])

    def given(self, line: str, labels: list[str]) -> NDArray[np.float64]:
        """[labels] as fastText gives them: p + 1e-5 (`std_log` in its loss.cc, so that it never takes log 0)."""
        found = dict(zip(*self.model.predict(line, k=-1), strict=True))
        return np.array([found.get(label, 0.0) for label in labels])

    def __call__(self, line: str, labels: list[str]) -> NDArray[np.float64]:
        """[labels] p itself, down to 1e-10: else all that a model is sure of would score the same."""
        return np.maximum(self.given(line, labels) - ADDED, SMALLEST)


class FastTextModel:
    """A folder that `maxllm classifier train` wrote.

    The heads of one model share reading, cutting, lower-casing and splitting a text into a line of words; each head's
    fastText then looks up its own words in that line.
    """

    def __init__(self, folder: str, setting: str) -> None:
        try:
            with open(os.path.join(folder, MODEL), encoding="utf-8") as file:
                description: dict[str, Any] = json.load(file)
            if description["format"] != FORMAT:
                raise UserError(
                    f"{setting}: {folder} is of format {description['format']}, this program reads {FORMAT}"
                )
            self.heads = [Head(**head) for head in description["heads"]]
            self.version = f"fasttext-{FORMAT}-{description['fingerprint']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{setting}: {folder}/{MODEL} cannot be read ({error}); train the model again") from None
        self._models = []
        for head in self.heads:
            model = Probabilities(os.path.join(folder, head.file), setting)
            missing = {fasttext_label(label) for label in head.labels} - set(model.labels)
            if missing:
                raise UserError(f"{setting}: {folder}/{head.file} lacks the labels {sorted(missing)}; train it again")
            self._models.append((head, model, [fasttext_label(label) for label in head.labels]))
        self.keys = tuple(key for head in self.heads for key in head.keys)
        self.labels = {head.name: tuple(head.labels) for head in self.heads if head.values is None}

    def score(self, texts: list[str]) -> list[dict[str, float]]:
        results = []
        for text in texts:
            line = line_of(text)
            scores: dict[str, float] = {}
            for head, model, labels in self._models:
                scores |= head.scores(scaled(model(line, labels)[None], head.temperature)[0])
            results.append(scores)
        return results


class BareFastText:
    """A fastText file as it is, such as DCLM's: the score is the probability of one of its labels."""

    labels: dict[str, tuple[str, ...]] = {}
    keys = (SCORE,)

    def __init__(self, path: str, label: str | None, setting: str) -> None:
        self._model = Probabilities(path, setting)
        wanted = label if label is None or label.startswith(LABEL) else fasttext_label(label)
        if wanted not in self._model.labels:
            known = ", ".join(name.removeprefix(LABEL) for name in self._model.labels[:20])
            raise UserError(
                f"{setting.removesuffix('model')}label: is {label!r}, but the model knows {known}; name one"
            )
        self._label = [wanted]
        with open(path, "rb") as file:
            self.version = f"fasttext-bare-{fingerprint(file.read(), wanted)}"

    def score(self, texts: list[str]) -> list[dict[str, float]]:
        # fastText's softmax can exceed 1 by rounding.
        return [
            {SCORE: round(min(float(self._model.given(bare_line(text), self._label)[0]), 1.0), DIGITS)}
            for text in texts
        ]


def description_of(heads: list[Head], files: dict[str, bytes]) -> dict[str, Any]:
    """What `model.json` holds. `files`: the heads' model files by name."""
    listed = [asdict(head) for head in heads]
    marks = [fingerprint(files[head.file]) for head in heads]
    return {
        "format": FORMAT,
        "kind": "fasttext",
        "fingerprint": fingerprint(json.dumps([listed, marks], sort_keys=True)),
        "heads": listed,
    }
