"""How duplicates are named in shuffles: a string that sorts oldest first, and union-find over such names."""

from __future__ import annotations

from collections.abc import Iterable

from data_beam.document import Document

# Sorts before every character of a time, so that strings compare as the pairs (age, id) do.
_SEPARATOR = "\x1f"


def node_of(document: Document) -> str:
    """Age and id. The smallest node of a group of duplicates is its oldest document: the one that stays."""
    return _SEPARATOR.join(document.age_key)


def id_of(node: str) -> str:
    return node.partition(_SEPARATOR)[2]


def smallest_reachable(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The smallest node of each node's connected component, by union-find in memory."""
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        root = parent.setdefault(node, node)
        while parent[root] != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    for left, right in edges:
        left, right = find(left), find(right)
        if left != right:
            parent[max(left, right)] = min(left, right)
    return {node: find(node) for node in parent}
