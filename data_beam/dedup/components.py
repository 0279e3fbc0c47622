"""Connected components on Beam: every node learns the smallest node it is connected to.

Rounds of large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond") pull nodes
towards their smallest neighbour, on all workers. Beam cannot loop until nothing changes, so a job does a few rounds
and then looks whether they were enough; data_beam/dedup/driver.py starts jobs until they were. There is no step that
one worker does alone, and the result is a property of the graph: the same for any number of rounds, jobs and workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from data_beam.dedup.groups import HELD, LARGE_STAR, SMALL_STAR, Pair, Smallest
from data_beam.dedup.nodes import Node

Edge = Pair  # (larger node, smaller node)


class Rounds(beam.PTransform):
    """Edges -> edges that connect the same nodes, nearer to stars. There are never more of them than before."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def expand(self, edges: beam.PCollection[Edge]) -> beam.PCollection[Edge]:
        for number in range(self.rounds):
            edges = (
                edges
                | f"both ways {number}" >> beam.FlatMap(_both_ways).with_output_types(Edge)
                | f"large star {number}" >> Smallest(LARGE_STAR)
                | f"small star {number}" >> Smallest(SMALL_STAR)
            )
        return edges


def _both_ways(edge: Edge) -> tuple[Edge, Edge]:
    larger, smaller = edge
    return (larger, smaller), (smaller, larger)


class _ParentsAndMarks(beam.DoFn):
    """(child, parent), and for the parent a mark that it has children: a few a bundle, however many children."""

    def start_bundle(self) -> None:
        self.marked: set[Node] = set()

    def process(self, edge: Edge) -> Iterator[Edge]:
        yield edge
        parent = edge[1]
        if parent not in self.marked:
            if len(self.marked) >= HELD:
                self.marked.clear()
            self.marked.add(parent)
            yield parent, b""


class _Judge(beam.DoFn):
    """A node's parents and marks -> (node, parent) once; and a violation if it has two parents or carries children."""

    def process(self, group: tuple[Node, Iterable[Node]]) -> Iterator[Any]:
        node, values = group
        parent, several, carries = None, False, False
        for value in values:
            if not value:
                carries = True
            elif parent is None:
                parent = value
            elif value != parent:
                several = True
                parent = min(parent, value)
        if parent is not None:
            yield node, parent
            if several or carries:
                yield TaggedOutput("violations", 1)


class Verify(beam.PTransform):
    """Edges -> (edges, each once; how many nodes violate being done).

    Done is: every node that has a parent has one only, and no parent has one itself. Then (node, parent) is
    (node, smallest node of its component) for all nodes but the smallest. While it is not done, each node has still
    only one of its parents here: never go on from these edges, go on from those that were put in.
    """

    def expand(self, edges: beam.PCollection[Edge]) -> tuple[beam.PCollection[Edge], beam.PCollection[int]]:
        judge = beam.ParDo(_Judge()).with_output_types(Edge, violations=int)
        judged = (
            edges
            | "parents and marks" >> beam.ParDo(_ParentsAndMarks()).with_output_types(Edge)
            | "family" >> beam.GroupByKey()
            | "judge" >> judge.with_outputs("violations", main="edges")
        )
        return judged.edges, judged.violations | "count" >> beam.combiners.Count.Globally()


class ConnectedComponents(beam.PTransform):
    """Edges -> (node, smallest node of its component) for all nodes but the smallest, in one job.

    Its run fails when `rounds` were not enough; the driver's jobs are for graphs of any depth.
    """

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def expand(self, edges: beam.PCollection[Edge]) -> beam.PCollection[Edge]:
        labels, violations = edges | "rounds" >> Rounds(self.rounds) | "verify" >> Verify()
        return labels | "only if done" >> beam.Map(_only_if_done, beam.pvalue.AsSingleton(violations), self.rounds)


def _only_if_done(edge: Edge, violations: int, rounds: int) -> Edge:
    if violations:
        raise RuntimeError(f"{violations} nodes are not settled after {rounds} rounds; give more rounds")
    return edge
