"""Random draws that depend on names alone, so that a copy is the same on whatever worker makes it."""

from __future__ import annotations

import random
from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

import xxhash

Item = TypeVar("Item")


class Draw:
    """Everything is made of `random()`, the one method whose sequence Python promises to keep for a seed."""

    def __init__(self, *names: Any) -> None:
        key = "\x00".join(map(str, names)).encode("utf-8", "surrogateescape")
        self.random = random.Random(xxhash.xxh3_64_intdigest(key)).random

    def below(self, count: int) -> int:
        return int(self.random() * count)

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Fisher and Yates, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
