"""Groups of any size: every member learns the group's smallest node, and no worker ever sees a whole large group.

A bundle gathers what it meets of each key and shuffles it as one element. Where that is more than a few members, they
travel under a key of their own, and only a token for them goes to the group, which answers it with the smallest. So a
group as large as the most copied page of the web costs its worker one element a bundle, not one a copy. What comes
out does not depend on bundles: it is a property of the group.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import xxhash
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from data_beam.dedup.nodes import Node, is_old

Pair = tuple[bytes, bytes]

HELD = 100_000  # nodes a bundle holds before it passes them on: some 20 MB
CHUNK = 4096  # members that travel together
INLINE = 16  # members of a group that travel with their key
_ONE, _MEMBERS, _TOKEN = b"\0", b"\1", b"\2"
_CHUNK, _ANSWER = b"\0", b"\1"
_WINDOWED = GlobalWindows.windowed_value(None)
STAR, LARGE_STAR, SMALL_STAR = "star", "large star", "small star"


def _pack(nodes: Iterable[bytes]) -> bytes:
    return b"".join([struct.pack(">I", len(node)) + node for node in nodes])


def _unpack(data: bytes, position: int) -> Iterator[bytes]:
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        position += 4 + length
        yield data[position - length : position]


def windowed(item: Any) -> Any:
    """As finish_bundle must hand it over."""
    if isinstance(item, TaggedOutput):
        return TaggedOutput(item.tag, _WINDOWED.with_value(item.value))
    return _WINDOWED.with_value(item)


class _Gather(beam.DoFn):
    """(key, node) -> (key, smallest node and members met in this bundle), and chunks of members: (token, members)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def start_bundle(self) -> None:
        self.held: dict[bytes, Node | set[Node]] = {}
        self.count = 0

    def process(self, pair: Pair) -> Iterator[Any]:
        key, node = pair
        nodes = self.held.get(key)
        if nodes is None:
            self.held[key] = node
        elif isinstance(nodes, bytes):
            if nodes == node:
                return
            self.held[key] = {nodes, node}
        else:
            nodes.add(node)
            if len(nodes) >= CHUNK:
                yield from self._parcel(key, self.held.pop(key))
                return
        self.count += 1
        if self.count >= HELD:
            yield from self._all()

    def finish_bundle(self) -> Iterator[Any]:
        for item in self._all():
            yield windowed(item)

    def _all(self) -> Iterator[Any]:
        for key, nodes in self.held.items():
            yield from self._parcel(key, nodes)
        self.held = {}
        self.count = 0

    def _parcel(self, key: bytes, nodes: Node | set[Node]) -> Iterator[Any]:
        if isinstance(nodes, bytes):
            if self.kind == STAR:
                yield key, _ONE + nodes
                return
            nodes = {nodes}
        smallest = min(nodes)
        if self.kind == LARGE_STAR:
            members = sorted(node for node in nodes if node > key)
            smallest = min(smallest, key)
        else:
            members = sorted(nodes)
        if self.kind == SMALL_STAR:
            members.append(key)
        if len(members) <= INLINE:
            yield key, _MEMBERS + _pack([smallest, *members])
        else:
            packed = _pack(members)
            token = xxhash.xxh3_128_digest(key + packed)
            yield key, _TOKEN + _pack([smallest, token])
            yield TaggedOutput("chunks", (token, _CHUNK + packed))


class _Answer(beam.DoFn):
    """A group's parcels -> (member, smallest) for members at hand, (token, smallest) for those that are elsewhere.

    Walks the group twice without holding it.
    """

    def __init__(self, owners: bool) -> None:
        self.owners = owners

    def process(self, group: tuple[bytes, Iterable[bytes]]) -> Iterator[Any]:
        key, parcels = group
        smallest, alone = None, True
        for parcel in parcels:
            if parcel[:1] == _ONE:
                found = parcel[1:]
                alone = alone and smallest is None
            else:
                found = next(_unpack(parcel, 1))
                alone = False
            if smallest is None or found < smallest:
                smallest = found
        assert smallest is not None
        if self.owners and not is_old(smallest):
            yield TaggedOutput("owners", (key, smallest))
        if alone:
            return
        for parcel in parcels:
            kind = parcel[:1]
            if kind == _ONE:
                if parcel[1:] != smallest:
                    yield parcel[1:], smallest
                continue
            nodes = _unpack(parcel, 1)
            next(nodes)
            if kind == _TOKEN:
                yield TaggedOutput("tokens", (next(nodes), _ANSWER + smallest))
                continue
            for node in nodes:
                if node != smallest:
                    yield node, smallest


def _deliver(group: tuple[bytes, Iterable[bytes]]) -> Iterator[Pair]:
    """A token's chunk and its answer -> (member, smallest)"""
    parcels = set(group[1])
    (smallest,) = (parcel[1:] for parcel in parcels if parcel[:1] == _ANSWER)
    for parcel in parcels:
        if parcel[:1] == _CHUNK:
            for node in _unpack(parcel, 1):
                if node != smallest:
                    yield node, smallest


class Smallest(beam.PTransform):
    """(key, node) -> (node, smallest node of its key), for all nodes of a key but the smallest.

    Of two more kinds, keys are nodes too, and pairs edges (Kiveris et al. 2014, algorithm 2):
    LARGE_STAR: from edges both ways: a node's larger neighbours move to the smallest of them, of the others and itself.
    SMALL_STAR: from edges (larger, smaller): a node and its smaller neighbours move to the smallest of these.

    With `owners=True` gives two collections: the pairs, and (key, its smallest node) where that is not from an index.
    """

    def __init__(self, kind: str = STAR, *, owners: bool = False) -> None:
        super().__init__()
        self.kind, self.owners = kind, owners

    def expand(self, pairs: beam.PCollection[Pair]) -> Any:
        gather = beam.ParDo(_Gather(self.kind)).with_output_types(Pair, chunks=Pair)
        gathered = pairs | "gather" >> gather.with_outputs("chunks", main="parcels")
        answer = beam.ParDo(_Answer(self.owners)).with_output_types(Pair, tokens=Pair, owners=Pair)
        answered = (
            gathered.parcels
            | "group" >> beam.GroupByKey()
            | "answer" >> answer.with_outputs("tokens", "owners", main="here")
        )
        elsewhere = (
            (gathered.chunks, answered.tokens)
            | "chunks and answers" >> beam.Flatten()
            | "meet" >> beam.GroupByKey()
            | "deliver" >> beam.FlatMap(_deliver).with_output_types(Pair)
        )
        result = (answered.here, elsewhere) | "all" >> beam.Flatten()
        return (result, answered.owners) if self.owners else result
