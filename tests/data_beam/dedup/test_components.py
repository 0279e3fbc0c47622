"""Connected components and groups of any size, held to union-find and to plain loops."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from data_beam.dedup import groups
from data_beam.dedup.components import ConnectedComponents
from data_beam.dedup.groups import LARGE_STAR, SMALL_STAR, STAR, Smallest
from data_beam.dedup.nodes import smallest_reachable

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
    return f"{number:06d}".encode()


def directed(pairs: Iterable[tuple[int, int]]) -> list[Edge]:
    return [(name(max(pair)), name(min(pair))) for pair in pairs if pair[0] != pair[1]]


def on_beam(transform: beam.PTransform, elements: list, expected) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        made = pipeline | beam.Create(elements, reshuffle=False).with_output_types(Edge)
        assert_that(made | transform | "as a set" >> beam.Distinct(), equal_to(list(expected)))


GRAPHS = {
    "sparse": lambda rng: [tuple(rng.sample(range(400), 2)) for _ in range(250)],
    "dense": lambda rng: [tuple(rng.sample(range(60), 2)) for _ in range(500)],
    "chain": lambda rng: [(i, i + 1) for i in range(399)],
    "star with the smallest last": lambda rng: [(300, i) for i in range(299)] + [(300, i) for i in range(301, 400)],
    "stars of stars": lambda rng: [(i, (i - 1) // 7) for i in range(1, 400)],
    "cliques": lambda rng: [(a, b) for a in range(100) for b in range(a) if a // 10 == b // 10],
    "pairs": lambda rng: [(2 * i, 2 * i + 1) for i in range(300)],
}


@pytest.mark.parametrize("kind", [STAR, LARGE_STAR, SMALL_STAR])
@pytest.mark.parametrize("graph", ["dense", "star with the smallest last"])
def test_smallest_equals_its_slow_twin(kind, graph, monkeypatch):
    monkeypatch.setattr(groups, "HELD", 37)  # bundles that pass on what they hold many times over,
    monkeypatch.setattr(groups, "CHUNK", 20)  # and groups that travel in chunks
    monkeypatch.setattr(groups, "INLINE", 3)
    edges = directed(GRAPHS[graph](random.Random(3)))
    given = edges if kind == SMALL_STAR else both_ways(edges)
    on_beam(Smallest(kind), given * 2, TWINS[kind](given))


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_components_equal_union_find(graph):
    edges = directed(GRAPHS[graph](random.Random(1)))
    expected = [(node, low) for node, low in smallest_reachable(edges).items() if node != low]
    stars, rounds = slow_rounds(edges)
    assert stars == set(expected)
    rng = random.Random(2)
    on_beam(ConnectedComponents(max(rounds, 1)), rng.sample(edges * 2, len(edges) * 2), expected)


pairs_of_small_numbers = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60)


@given(pairs=pairs_of_small_numbers)
@settings(max_examples=300, deadline=None)
def test_rounds_end_in_stars_that_union_find_would_give(pairs):
    edges = directed(pairs)
    expected = {(node, low) for node, low in smallest_reachable(edges).items() if node != low}
    found, rounds = slow_rounds(edges)
    assert found == expected and rounds <= 6
