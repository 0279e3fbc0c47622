"""Connected components and groups of any size, held to union-find and to plain loops."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

import apache_beam as beam
import pytest
from apache_beam.pvalue import TaggedOutput
from hypothesis import given, settings
from hypothesis import strategies as st

from data_beam.dedup import groups
from data_beam.dedup.components import ConnectedComponents, Verify
from data_beam.dedup.groups import LARGE_STAR, SMALL_STAR, STAR, Smallest
from data_beam.dedup.nodes import smallest_reachable
from maxllm.config.dedup import FuzzyDedupConfig

Edge = tuple[bytes, bytes]


# The slow twins: Kiveris et al. 2014, algorithms 1 to 3, on dictionaries.


def slow_star(pairs: Iterable[Edge]) -> set[Edge]:
    found = defaultdict(set)
    for key, node in pairs:
        found[key].add(node)
    return {(node, min(nodes)) for nodes in found.values() for node in nodes if node != min(nodes)}


def slow_large_star(both_ways: Iterable[Edge]) -> set[Edge]:
    neighbours = defaultdict(set)
    for node, other in both_ways:
        neighbours[node].add(other)
    return {(v, min(near | {u})) for u, near in neighbours.items() for v in near if v > u}


def slow_small_star(edges: Iterable[Edge]) -> set[Edge]:
    smaller = defaultdict(set)
    for larger, other in edges:
        smaller[larger].add(other)
    return {(v, min(near)) for u, near in smaller.items() for v in near | {u} if v != min(near)}


def both_ways(edges: Iterable[Edge]) -> list[Edge]:
    return [each for left, right in edges for each in ((left, right), (right, left))]


def slow_rounds(edges: Iterable[Edge]) -> tuple[set[Edge], int]:
    """Until nothing changes: the edges, and how many rounds changed something."""
    edges, rounds = set(edges), 0
    while (joined := slow_small_star(slow_large_star(both_ways(edges)))) != edges:
        edges, rounds = joined, rounds + 1
    return edges, rounds


TWINS = {STAR: slow_star, LARGE_STAR: slow_large_star, SMALL_STAR: slow_small_star}


def name(number: int) -> bytes:
    """As nodes are, of a document in this run: the first bit is set."""
    return b"\xff" + f"{number:06d}".encode()


def directed(pairs: Iterable[tuple[int, int]]) -> list[Edge]:
    return [(name(max(pair)), name(min(pair))) for pair in pairs if pair[0] != pair[1]]


GRAPHS = {
    "sparse": lambda rng: [tuple(rng.sample(range(400), 2)) for _ in range(250)],
    "dense": lambda rng: [tuple(rng.sample(range(60), 2)) for _ in range(500)],
    "chain": lambda rng: [(i, i + 1) for i in range(399)],
    "star with the smallest last": lambda rng: [(300, i) for i in range(299)] + [(300, i) for i in range(301, 400)],
    "stars of stars": lambda rng: [(i, (i - 1) // 7) for i in range(1, 400)],
    "cliques": lambda rng: [(a, b) for a in range(100) for b in range(a) if a // 10 == b // 10],
    "pairs": lambda rng: [(2 * i, 2 * i + 1) for i in range(300)],
}


def gathered(gather: groups._Gather, bundle: Iterable[Edge]) -> Iterator[tuple[bool, Edge]]:
    """What a bundle yields, and whether it is a chunk that travels apart."""
    gather.start_bundle()
    for item in chain.from_iterable(map(gather.process, bundle)):
        yield (True, item.value) if isinstance(item, TaggedOutput) else (False, item)
    for item in gather.finish_bundle():
        yield (True, item.value.value) if isinstance(item, TaggedOutput) else (False, item.value)


def in_bundles(kind: str, pairs: list[Edge], rng: random.Random) -> set[Edge]:
    """What Smallest does, with its own DoFns, in bundles that end anywhere and groups that arrive in any order."""

    def shuffled(groups: dict[bytes, list[bytes]]) -> Iterator[tuple[bytes, list[bytes]]]:
        for key, values in rng.sample(sorted(groups.items()), len(groups)):
            yield key, rng.sample(values, len(values))

    parcels, elsewhere = defaultdict(list), defaultdict(list)
    found: set[Edge] = set()
    gather, answer = groups._Gather(kind), groups._Answer(owners=False)
    start = 0
    while start < len(pairs):
        bundle = pairs[start : start + rng.randint(1, 60)]
        start += len(bundle)
        for apart, (key, value) in gathered(gather, bundle):
            (elsewhere if apart else parcels)[key].append(value)
    for group in shuffled(parcels):
        for item in answer.process(group):
            if isinstance(item, TaggedOutput):
                elsewhere[item.value[0]].append(item.value[1])
            else:
                found.add(item)
    return found.union(*(groups._deliver(group) for group in shuffled(elsewhere)))


@pytest.fixture
def small_bundles(monkeypatch):
    monkeypatch.setattr(groups, "HELD", 37)  # bundles pass on what they hold now and then,
    monkeypatch.setattr(groups, "CHUNK", 20)  # and groups travel in chunks
    monkeypatch.setattr(groups, "INLINE", 3)


@pytest.mark.parametrize("kind", [STAR, LARGE_STAR, SMALL_STAR])
@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_smallest_equals_its_slow_twin_whatever_the_bundles(kind, graph, small_bundles):
    for seed in range(3):
        rng = random.Random(seed)
        edges = directed(GRAPHS[graph](rng))
        given = edges if kind == SMALL_STAR else both_ways(edges)
        assert in_bundles(kind, rng.sample(given * 2, len(given) * 2), rng) == TWINS[kind](given)


@pytest.mark.parametrize("kind", [STAR, LARGE_STAR, SMALL_STAR])
def test_smallest_on_beam_equals_its_slow_twin(kind, small_bundles, collect):
    edges = directed(GRAPHS["dense"](random.Random(3)))
    given = edges if kind == SMALL_STAR else both_ways(edges)
    assert set(collect(Typed() | Smallest(kind), given * 2)) == TWINS[kind](given)


class Typed(beam.PTransform):
    def expand(self, pairs: beam.PCollection) -> beam.PCollection[Edge]:
        return pairs | beam.Map(lambda pair: pair).with_output_types(Edge)


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_rounds_end_in_stars_that_union_find_would_give(graph):
    edges = directed(GRAPHS[graph](random.Random(1)))
    expected = {(node, low) for node, low in smallest_reachable(edges).items() if node != low}
    assert slow_rounds(edges)[0] == expected


@given(pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
@settings(max_examples=200, deadline=None)
def test_rounds_end_in_stars_of_any_graph(pairs):
    edges = directed(pairs)
    expected = {(node, low) for node, low in smallest_reachable(edges).items() if node != low}
    found, rounds = slow_rounds(edges)
    assert found == expected and rounds <= 6


def test_components_on_beam_equal_union_find(collect):
    edges = directed(GRAPHS["sparse"](random.Random(1)))
    expected = [(node, low) for node, low in smallest_reachable(edges).items() if node != low]
    rng = random.Random(2)
    found = collect(Typed() | ConnectedComponents(slow_rounds(edges)[1]), rng.sample(edges * 2, len(edges) * 2))
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("length", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_chain_takes_as_many_rounds_as_the_logarithm_of_its_length(order, length):
    numbers = list(range(length))
    if order == "shuffled":
        random.Random(1).shuffle(numbers)
    edges = directed(zip(numbers, numbers[1:], strict=False))
    found, rounds = slow_rounds(edges)
    assert found == {(name(number), name(0)) for number in range(1, length)} and rounds <= math.log2(length) + 1


def bucket_stars(rng: random.Random, documents: int) -> list[Edge]:
    """What MinHash hands over: clusters of any size, each seen through 14 bands that group its members differently."""
    names = list(range(documents))
    rng.shuffle(names)
    pairs, start = [], 0
    while start < documents:
        cluster = names[start : start + min(int(rng.paretovariate(1.1)) + 1, 2000)]
        start += len(cluster)
        for band in range(14):
            for place, number in enumerate(cluster):
                if rng.random() < 0.5:  # else alone in its bucket; neighbours drift apart along the cluster
                    bucket = place // 4 if rng.random() < 0.8 else rng.randrange(max(1, len(cluster) // 3))
                    pairs.append((f"{start} {band} {bucket}".encode(), name(number)))
    return sorted(slow_star(pairs))


def test_the_default_rounds_settle_nearly_all_that_minhash_finds():
    edges = set(bucket_stars(random.Random(1), 10_000))
    expected = {pair for pair in smallest_reachable(edges).items() if pair[0] != pair[1]}
    for _ in range(FuzzyDedupConfig().rounds):
        edges = slow_small_star(slow_large_star(both_ways(edges)))
    assert len(edges ^ expected) < len(expected) / 500


class Stream:
    """Pairs that are made as they are asked for, as often as one likes."""

    def __init__(self, count: int, pair) -> None:
        self.count, self.pair = count, pair

    def __iter__(self) -> Iterator[Edge]:
        return map(self.pair, range(self.count))


@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        (STAR, lambda number: (b"the most copied page", name(number))),
        (LARGE_STAR, lambda number: (name(0), name(number + 1))),  # a star's centre and its leaves
        # a node with as many parents
        pytest.param(SMALL_STAR, lambda number: (name(999_999), name(number)), marks=pytest.mark.slow),
    ],
)
def test_a_group_of_a_hundred_thousand_costs_its_worker_a_few_elements_and_little_memory(kind, pair):
    count = 100_000
    parcels, in_chunks = [], 0
    tracemalloc.start()
    for apart, (key, value) in gathered(groups._Gather(kind), Stream(count, pair)):
        if apart:
            in_chunks += sum(1 for _ in groups._unpack(value, 1))
        else:
            parcels.append((key, value))
    assert len(parcels) <= count / groups.CHUNK + 2 and {key for key, _ in parcels} == {pair(0)[0]}
    assert in_chunks == count + (len(parcels) if kind == SMALL_STAR else 0)
    answers = list(groups._Answer(owners=False).process((parcels[0][0], [value for _, value in parcels])))
    assert len(answers) == len(parcels) and all(isinstance(answer, TaggedOutput) for answer in answers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # the group's names alone are 5.5 MB


def test_a_group_in_small_parcels_is_walked_without_being_held():
    def parcel(number: int) -> bytes:
        return groups._MEMBERS + groups._pack([name(2 * number), name(2 * number), name(2 * number + 1)])

    tracemalloc.start()
    answers = sum(1 for _ in groups._Answer(owners=True).process((b"key", Stream(10_000, parcel))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answers == 20_000 and peak < 1e5


def test_verify_counts_what_is_not_settled(collect):
    class Violations(beam.PTransform):
        def expand(self, edges: beam.PCollection) -> beam.PCollection:
            return (edges | Verify())[1]

    settled = [(0, 1), (0, 2), (0, 2), (5, 6)]
    assert collect(Typed() | Violations(), directed(settled)) == [0]
    two_parents, grandparent = [(10, 12), (11, 12)], [(20, 21), (21, 22)]
    assert collect(Typed() | Violations(), directed(settled + two_parents + grandparent)) == [2]
