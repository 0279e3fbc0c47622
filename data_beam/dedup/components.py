"""Connected components on Beam: every node learns the smallest node it is connected to.

Rounds of large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond") pull nodes
towards their smallest neighbour, on all workers. Beam cannot loop until nothing changes, so a fixed number of rounds
is followed by an end that is right whatever they left: nodes that hang on one parent and carry no children are leaves
and need only their parent's answer; the edges among all others go to one worker's union-find. Clusters of near
duplicates are mostly stars already: two rounds leave that worker a few edges in a hundred even where copies drift (a
test holds it), and more rounds leave fewer. The result is the same for any number of rounds, workers and shards,
because it is a property of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam

from data_beam.dedup.nodes import smallest_reachable

Edge = tuple[str, str]


def star(nodes: Iterable[str]) -> Iterator[Edge]:
    """(x, smallest) for each other node of a group: as many edges as nodes, where all pairs would be their square.

    Walks the group twice without holding it: a group may be as large as the most copied page of the web.
    """
    smallest = min(nodes)
    for node in nodes:
        if node != smallest:
            yield node, smallest


def large_star(group: tuple[str, Iterable[str]]) -> Iterator[Edge]:
    """From a node and all its neighbours: its larger neighbours move to the smallest of them all."""
    node, neighbours = group
    smallest = min(node, min(neighbours))
    for neighbour in neighbours:
        if neighbour > node:
            yield neighbour, smallest


def small_star(group: tuple[str, Iterable[str]]) -> Iterator[Edge]:
    """From a node and its smaller neighbours: the node and they move to the smallest of them; each edge once."""
    node, smaller = group
    distinct = set(smaller)
    smallest = min(distinct)
    distinct.add(node)
    for other in distinct:
        if other != smallest:
            yield other, smallest


def _both_ways(edge: Edge) -> tuple[Edge, Edge]:
    larger, smaller = edge
    return (larger, smaller), (smaller, larger)


def _parent_and_mark(edge: Edge) -> tuple[Edge, Edge]:
    """(child, parent), and for the parent a mark that it has children."""
    child, parent = edge
    return (child, parent), (parent, "")


class _SplitLeaves(beam.DoFn):
    """From a node with its parents and marks: leaves by parent, all other edges as they are."""

    LEAF, KNOT = "leaf", "knot"

    def process(self, group: tuple[str, Iterable[str]]) -> Iterator[beam.pvalue.TaggedOutput]:
        node, values = group
        parents = set(values)
        has_children = "" in parents
        parents.discard("")
        if len(parents) == 1 and not has_children:
            yield beam.pvalue.TaggedOutput(self.LEAF, (parents.pop(), node))
        else:
            for parent in parents:
                yield beam.pvalue.TaggedOutput(self.KNOT, (node, parent))


def _answer_leaves(group: tuple[str, dict[str, Iterable[str]]]) -> Iterator[Edge]:
    parent, found = group
    smallest = next(iter(found["smallest"]), parent)
    for leaf in found["leaves"]:
        yield leaf, smallest


class ConnectedComponents(beam.PTransform):
    """Edges (larger node, smaller node) -> (node, smallest node of its component) for all nodes but the smallest."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def expand(self, edges: beam.PCollection[Edge]) -> beam.PCollection[Edge]:
        for number in range(self.rounds):
            edges = (
                edges
                | f"both ways {number}" >> beam.FlatMap(_both_ways).with_output_types(Edge)
                | f"neighbours {number}" >> beam.GroupByKey()
                | f"large star {number}" >> beam.FlatMap(large_star).with_output_types(Edge)
                | f"smaller neighbours {number}" >> beam.GroupByKey()
                | f"small star {number}" >> beam.FlatMap(small_star).with_output_types(Edge)
            )
        split = (
            edges
            | "parents and marks" >> beam.FlatMap(_parent_and_mark).with_output_types(Edge)
            | "family" >> beam.GroupByKey()
            | "leaves apart" >> beam.ParDo(_SplitLeaves()).with_outputs(_SplitLeaves.LEAF, _SplitLeaves.KNOT)
        )
        leaves = split[_SplitLeaves.LEAF] | "leaves" >> beam.Map(tuple).with_output_types(Edge)
        knots = (
            split[_SplitLeaves.KNOT]
            | "to one worker" >> beam.Map(lambda edge: (0, edge)).with_output_types(tuple[int, Edge])
            | "knot" >> beam.GroupByKey()
            | "union-find" >> beam.FlatMap(lambda group: smallest_reachable(group[1]).items()).with_output_types(Edge)
        )
        answered = (
            {"leaves": leaves, "smallest": knots}
            | "leaves and their parents" >> beam.CoGroupByKey()
            | "answer leaves" >> beam.FlatMap(_answer_leaves).with_output_types(Edge)
        )
        others = knots | "not the smallest" >> beam.Filter(lambda pair: pair[0] != pair[1]).with_output_types(Edge)
        return (answered, others) | beam.Flatten()
