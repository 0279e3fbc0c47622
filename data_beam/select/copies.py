"""How often a document goes into training: expected copies by its attributes, drawn once and for all.

Parmar et al. 2024 ("Data, Data Everywhere", arXiv 2407.06380) sample web documents by attributes: fine-grained for
quality, each class with its weight; grouped for domain, classes with alike use sharing one.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import xxhash

from data_beam.document import Document, document_id
from maxllm.config.select import AttributeConfig


def attribute(document: Document, key: str) -> Any:
    """The value at a dotted key of metadata, None when it is not there."""
    value: Any = document.metadata
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def label_of(value: Any, config: AttributeConfig) -> str | None:
    """The label, bucket number or group that has the weight. Of scores by label the highest is the label."""
    if value is None:
        return None
    if config.edges and isinstance(value, int | float) and not isinstance(value, bool):
        return str(bisect.bisect_right(config.edges, value))
    if isinstance(value, dict) and value:
        value = max(sorted(value), key=value.__getitem__)
    label = str(value)
    return next((name for name, labels in config.groups.items() if label in labels), label)


def weight_of(document: Document, attributes: Sequence[AttributeConfig]) -> float:
    """Expected copies: the product over all attributes."""
    weight = 1.0
    for config in attributes:
        label = label_of(attribute(document, config.key), config)
        weight *= config.default if label is None else config.weights.get(label, config.default)
    return weight


def copies(id: str, weight: float, seed: int) -> int:
    """floor(weight), and one more with the probability of the rest: a function of the id and the seed alone."""
    whole = int(weight)
    uniform = xxhash.xxh3_64_intdigest(f"copies {id}".encode("utf-8", "surrogateescape"), seed) / 2**64
    return whole + (uniform < weight - whole)


def copy_of(document: Document, number: int) -> Document:
    """The document, or its further copy: a name of its own, the same group, so that both are trained on or held out."""
    if number == 0:
        return document
    id = document_id(document.source, document.id, number)
    metadata = {"group": document.id, **document.metadata, "copy": number, "copy_of": document.id}
    return Document(id, document.text, document.source, document.added, document.created, metadata)
