"""How documents are named while duplicates are looked for: bytes that sort oldest first and hold the id.

8 bytes of age, then the id: 25 bytes for an id of 32 hexadecimal digits, 33 with its place in a run (ID@PART.ROW).
The first bit of a name says whether the document is in this run. Names from an index of older sets lack it, so that
they sort before all of this run's, whatever their age: what was kept once is never an argument again.
"""

from __future__ import annotations

import datetime
import re
import struct
from collections.abc import Iterable
from typing import Any

from data_beam.document import Document

_SEPARATOR = "\x1f"  # sorts before every character of a time, so that strings compare as the pairs (age, id) do
_IN_RUN = 1 << 63
_UNKNOWN_AGE = _IN_RUN - 1
_HEX_ID = re.compile(r"([0-9a-f]{32})(?:@(\d{7})\.(\d{9}))?")
_PLACE = re.compile(r"@\d{7,}\.\d{9,}$")
_PACKED, _AS_IT_IS = b"\0", b"\1"
_OLD_LENGTH = 8 + 1 + 16  # of a packed name without a place

Node = bytes


def node(document: Document) -> Node:
    """Sorts by the instant the document dates from, then by id. A time that cannot be read is newer than all others."""
    age, id = document.age_key
    return (_IN_RUN | microseconds(age)).to_bytes(8, "big") + _pack(id)


def unpacked_id(node: Node) -> str:
    kind, rest = node[8:9], node[9:]
    if kind == _AS_IT_IS:
        return rest.decode("utf-8", "surrogatepass")
    if len(rest) == 16:
        return rest.hex()
    part, row = struct.unpack(">II", rest[16:])
    return f"{rest[:16].hex()}@{part:07d}.{row:09d}"


def is_old(node: Node) -> bool:
    """From an index: not a document of this run."""
    return node[0] < 0x80


def as_old(node: Node) -> Node:
    """The name an index keeps: without the place in this run, sorting before all documents of later ones."""
    age = (int.from_bytes(node[:8], "big") & ~_IN_RUN).to_bytes(8, "big")
    if node[8:9] == _PACKED:
        return age + node[8:_OLD_LENGTH]
    return age + _pack(_PLACE.sub("", unpacked_id(node)))


def microseconds(age: str) -> int:
    """Since year 1, of an ISO 8601 time or date; a year or month alone is its beginning, no zone is UTC."""
    try:
        time = datetime.datetime.fromisoformat(age + {4: "-01-01", 7: "-01"}.get(len(age), ""))
        if time.utcoffset():
            time = time.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return _UNKNOWN_AGE
    seconds = ((time.toordinal() * 24 + time.hour) * 60 + time.minute) * 60 + time.second
    return seconds * 1_000_000 + time.microsecond


def _pack(id: str) -> bytes:
    match = _HEX_ID.fullmatch(id)
    if not match:
        return _AS_IT_IS + id.encode("utf-8", "surrogatepass")
    digits, part, row = match.groups()
    return _PACKED + bytes.fromhex(digits) + (struct.pack(">II", int(part), int(row)) if part else b"")


def node_of(document: Document) -> str:
    """Age and id as text."""
    return _SEPARATOR.join(document.age_key)


def id_of(node: str) -> str:
    return node.partition(_SEPARATOR)[2]


def smallest_reachable(edges: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """The smallest node of each node's connected component, by union-find in memory: the plain twin of the shuffles."""
    parent: dict[Any, Any] = {}

    def find(node: Any) -> Any:
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
