"""Which outcomes of many are looked at: the same ones whatever the order they come in."""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Sample:
    """At most `limit`: of each group those with the lowest ranks, and groups as even as they can be.

    A group smaller than its share is there whole. In one pass: what comes in over the limit pushes out the highest
    rank of the largest group, whose size at the end can only be smaller.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.groups: dict[Hashable, list[tuple[int, int]]] = {}  # heaps of (-rank, number): the highest rank first

    def wants(self, group: Hashable, rank: int) -> bool:
        """False when it would be pushed out at once."""
        if self.size < self.limit:
            return True
        held, largest = self.groups.get(group, []), self.groups[self._largest()]
        return len(held) < len(largest) or rank < -held[0][0]

    def add(self, group: Hashable, rank: int, number: int) -> int | None:
        """The number of the one that this one pushes out."""
        heapq.heappush(self.groups.setdefault(group, []), (-rank, number))
        self.size += 1
        if self.size <= self.limit:
            return None
        self.size -= 1
        return heapq.heappop(self.groups[self._largest()])[1]

    def _largest(self) -> Hashable:
        return max(self.groups, key=lambda group: (len(self.groups[group]), group))
