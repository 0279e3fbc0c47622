"""A sample that does not depend on order or machine: the items whose names hash lowest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import xxhash

Item = TypeVar("Item")


def by_hash(items: Iterable[Item], limit: int | None, key: Callable[[Item], str]) -> list[Item]:
    """All items as they come, or the `limit` with the lowest hash of `key`, in that order."""
    if limit is None:
        return list(items)
    return sorted(items, key=lambda item: xxhash.xxh3_64_intdigest(key(item).encode("utf-8", "surrogateescape")))[
        :limit
    ]
