"""Which encoder a config means, and what an encoder is: texts in, one vector for each out.

    def my_encoder(texts: Sequence[str]) -> np.ndarray: ...     # float [texts, d], any length but zero; any d

Its answer to a text should not depend on the others of its batch: that is what keeps results the same for any number
of workers. Vectors are brought to length one and rounded (fixed.py), which hides differences of about 1e-4 mostly.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from apache_beam.io.filesystems import FileSystems

from data_beam.embed import hashing
from data_beam.embed.fixed import MAX_DIMENSION
from maxllm.config.errors import UserError

Encoder = Callable[[Sequence[str]], np.ndarray]
SETTING = "semantic_dedup.encoder"


def check(reference: str, model: str) -> None:
    """UserError for what can be seen to be wrong before any worker starts, without loading a model."""
    if reference == "hashing":
        return
    if reference.startswith(("http://", "https://")):
        if not model:
            raise UserError(f"{SETTING}: {reference} serves models by name; say which in semantic_dedup.model")
    elif _is_function(reference):
        _function(reference)
    elif not _exists(reference):
        raise UserError(
            f"{SETTING}: {reference} is neither hashing, a model's folder (with modules.json), module:function, "
            "nor an http(s) address"
        )
    elif importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(f"{SETTING}: {reference} needs sentence-transformers; pip install 'maxllm[embed]'")


@cache
def load(reference: str, model: str) -> Encoder:
    """Once per process."""
    if reference == "hashing":
        return hashing.encode
    if reference.startswith(("http://", "https://")):
        from data_beam.embed.http import HttpEncoder

        return HttpEncoder(reference, model)
    if _is_function(reference):
        return _function(reference)
    from data_beam.embed.sentence import SentenceEncoder

    return SentenceEncoder(reference)


def checked(vectors: np.ndarray, texts: int, reference: str) -> np.ndarray:
    """The encoder's answer, if it is one."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != texts or vectors.shape[1] > MAX_DIMENSION:
        raise RuntimeError(f"{SETTING}: {reference} gave an array {list(vectors.shape)} for {texts} texts")
    if not np.isfinite(vectors).all():
        raise RuntimeError(f"{SETTING}: {reference} gave vectors that are not finite")
    return vectors


def _is_function(reference: str) -> bool:
    module, colon, name = reference.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _function(reference: str) -> Encoder:
    module, _, name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{SETTING}: cannot load {reference}: {error}; is it installed on every worker?") from error
    if not callable(found):
        raise UserError(f"{SETTING}: {reference} is not a function of a list of texts")
    return found


def _exists(folder: str) -> bool:
    try:
        return FileSystems.exists(FileSystems.join(folder, "modules.json"))
    except Exception:  # a scheme that no installed file system knows
        return False
