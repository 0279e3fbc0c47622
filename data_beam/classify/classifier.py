"""What a classifier is, and how the one that a setting names is found."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from functools import cache
from typing import Protocol

from maxllm.config.classify import ClassifierConfig
from maxllm.config.errors import UserError

MODEL = "model.json"
DIGITS = 8  # of a score: the same number is stored, shown and decided by


class Classifier(Protocol):
    """A model, loaded. `version` names its weights and how they are read; scores of one version are comparable.

    `keys` are the names of the scores of every text. `labels` are those of the heads that tell classes apart: a head's
    probabilities are under `HEAD.LABEL`.
    """

    version: str
    keys: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]

    def score(self, texts: list[str]) -> list[dict[str, float]]:
        """The scores of each text, all heads at once."""
        ...


def load_classifier(config: ClassifierConfig) -> Classifier:
    """The model that `config.model` names, loaded once per process. Raises UserError."""
    setting = f"classifiers.{config.name}.model"
    return _load(config.model, config.label, config.clamp, setting)


@cache
def _load(model: str, label: str | None, clamp: tuple[float, float] | None, setting: str) -> Classifier:
    path = local_copy(model, setting)
    if path is not None and os.path.isfile(path):
        from data_beam.classify.fasttext_model import BareFastText

        return BareFastText(path, label, setting)
    if path is not None and os.path.isfile(os.path.join(path, MODEL)):
        from data_beam.classify.fasttext_model import FastTextModel

        return FastTextModel(path, setting)
    if path is not None and not os.path.isfile(os.path.join(path, "config.json")):
        raise UserError(
            f"{setting}: {model} holds neither {MODEL} nor a Hugging Face config.json; is it a whole model?"
        )
    if path is None and (model.count("/") != 1 or model.startswith((".", "/"))):
        raise UserError(
            f"{setting}: {model} does not exist; train one with `maxllm classifier train`, or check the path"
        )
    from data_beam.classify.huggingface import HuggingFaceModel

    return HuggingFaceModel(path or model, clamp, setting)


def local_copy(path: str, setting: str) -> str | None:
    """A path on this machine with the content of a file or folder on any of Beam's file systems; None if not there.

    What is here already is not copied; what is copied goes when the process ends.
    """
    if "://" not in path:
        return path if os.path.exists(path) else None
    from apache_beam.io.filesystems import FileSystems

    try:
        below = FileSystems.match([FileSystems.join(path, "**")])[0].metadata_list
        names = {file.path: file.path[len(path.rstrip("/")) + 1 :] for file in below}
        if not names and FileSystems.exists(path):
            names = {path: os.path.basename(path)}
        if not names:
            return None
        folder = tempfile.mkdtemp(prefix="maxllm-model-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        for source, name in names.items():
            target = os.path.join(folder, *name.split("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with FileSystems.open(source, compression_type="uncompressed") as stream, open(target, "wb") as file:
                shutil.copyfileobj(stream, file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{setting}: {path} cannot be read ({error}); check the path and its file system's extra"
        ) from None
    return os.path.join(folder, os.path.basename(path)) if path in names else folder


def fingerprint(*parts: bytes | str) -> str:
    """16 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]
