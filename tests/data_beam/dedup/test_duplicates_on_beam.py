"""Duplicates on Beam: the oldest stays, components are the graph's, nothing depends on rounds, order or workers."""

import json
import random
from collections import defaultdict
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from data_beam.dedup.components import ConnectedComponents, large_star, small_star, star
from data_beam.dedup.exact import ExactDuplicates, fingerprint
from data_beam.dedup.minhash import FuzzyDuplicates
from data_beam.dedup.nodes import smallest_reachable
from data_beam.document import Document
from maxllm.config.dedup import FuzzyDedupConfig

CONFIG = FuzzyDedupConfig()


def collect(folder: Path, build, elements: list, *options: str) -> list:
    """What a pipeline built on the elements yields, through a file, so that workers may be other processes."""
    folder.mkdir(exist_ok=True)
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
    results = build(pipeline | "elements" >> beam.Create(elements, reshuffle=False))
    results | "line" >> beam.Map(json.dumps) | "write" >> beam.io.WriteToText(str(folder / "out"))
    pipeline.run().wait_until_finish()
    return sorted(json.loads(line) for path in folder.glob("out*") for line in path.read_text().splitlines())


def components(folder: Path, edges: list[tuple[str, str]], rounds: int) -> dict[str, str]:
    directed = [(max(edge), min(edge)) for edge in edges]
    pairs = collect(folder, lambda elements: elements | ConnectedComponents(rounds), directed)
    assert len({node for node, _ in pairs}) == len(pairs)
    return dict(pairs)


def graph(kind: str, rng: random.Random) -> list[tuple[str, str]]:
    names = [f"{i:04d}" for i in range(400)]
    if kind == "sparse":
        return [tuple(rng.sample(names, 2)) for _ in range(250)]
    if kind == "dense":
        return [tuple(rng.sample(names[:60], 2)) for _ in range(500)]
    if kind == "chain in order":
        return list(zip(names, names[1:], strict=False))
    if kind == "chain shuffled":
        rng.shuffle(names)
        return list(zip(names, names[1:], strict=False))
    if kind == "stars of stars":
        return [(names[i], names[(i - 1) // 7]) for i in range(1, 400)]
    if kind == "cliques":
        return [(names[a], names[b]) for a in range(100) for b in range(a) if a // 10 == b // 10]
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        *((kind, 2) for kind in ("sparse", "dense", "chain in order", "stars of stars", "cliques")),
        *(("chain shuffled", rounds) for rounds in (0, 1, 4)),
    ],
)
def test_components_equal_union_find_whatever_the_rounds(tmp_path, kind, rounds):
    edges = graph(kind, random.Random(1))
    expected = {node: low for node, low in smallest_reachable(edges).items() if node != low}
    shuffled = random.Random(2).sample(edges * 2, len(edges) * 2)  # repeated edges are one edge
    assert components(tmp_path, shuffled, rounds) == expected


def bucket_stars(rng: random.Random, documents: int) -> list[tuple[str, str]]:
    """What MinHash hands over: clusters of any size, each seen through 14 bands that group its members differently."""
    names = [f"{i:06d}" for i in range(documents)]
    rng.shuffle(names)
    edges, start = [], 0
    while start < documents:
        cluster = names[start : start + min(int(rng.paretovariate(1.1)) + 1, 2000)]
        start += len(cluster)
        for _ in range(14):
            buckets = defaultdict(list)
            for place, name in enumerate(cluster):
                if rng.random() < 0.5:  # else alone in its bucket; neighbours drift apart along the cluster
                    buckets[place // 4 if rng.random() < 0.8 else rng.randrange(max(1, len(cluster) // 3))].append(name)
            edges += [edge for bucket in buckets.values() for edge in star(bucket)]
    return edges


def grouped(pairs) -> list[tuple[str, list[str]]]:
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return list(groups.items())


def test_two_rounds_leave_the_last_worker_less_than_a_twentieth_of_the_edges():
    edges = bucket_stars(random.Random(1), 10_000)
    first = len(edges)
    for _ in range(2):
        both = [each for left, right in edges for each in ((left, right), (right, left))]
        edges = [edge for group in grouped(both) for edge in large_star(group)]
        edges = [edge for group in grouped(edges) for edge in small_star(group)]
    parents, carrying = grouped(edges), {parent for _, parent in edges}
    left = sum(len(each) for node, each in parents if len(each) > 1 or node in carrying)
    assert 0 < left < first / 20


def corpus() -> list[Document]:
    """20 texts; near copies of the first 10 at different ages, a chain of drifting copies, exact copies of some."""
    rng = random.Random(4)
    vocabulary = [f"word{i}" for i in range(3000)]
    documents = []

    def add(id: str, words: list[str], year: int, space: str = " ") -> None:
        documents.append(Document(id, space.join(words), "test", f"{year}-01-01"))

    texts = [rng.choices(vocabulary, k=300) for _ in range(20)]
    for number, words in enumerate(texts):
        add(f"t{number:02d}", words, 2010)
    for number in range(10):
        edited = list(texts[number])
        edited[150] = "edited"
        add(f"near{number:02d}", edited, 2000 if number % 2 else 2020)
    for number in range(15, 20):
        add(f"copy{number:02d}", texts[number], 2005, "\n")
    drifting = rng.choices(vocabulary, k=300)
    for step in range(8):
        drifting = list(drifting)
        drifting[step * 30 : step * 30 + 5] = rng.choices(vocabulary, k=5)
        add(f"drift{step}", drifting, 2030 - step)
    add("short", ["too", "short"], 2010)
    add("empty1", [], 2010)
    add("empty0", [], 2010)
    return documents


def exact(documents):
    return documents | ExactDuplicates() | beam.MapTuple(lambda id, drop: [id, drop.reason, drop.value])


def fuzzy(documents):
    return documents | FuzzyDuplicates(CONFIG) | beam.MapTuple(lambda id, drop: [id, drop.reason, drop.value])


EXACT = [[f"t{i}", "exact_dedup.duplicate", f"copy{i}"] for i in range(15, 20)]
EXACT = [["empty1", "exact_dedup.duplicate", "empty0"], *EXACT]
REASON = "fuzzy_dedup.near_duplicate"
FUZZY = sorted(
    [[f"near{i:02d}", REASON, f"t{i:02d}"] for i in range(0, 10, 2)]
    + [[f"t{i:02d}", REASON, f"near{i:02d}"] for i in range(1, 10, 2)]
    + [[f"t{i}", REASON, f"copy{i}"] for i in range(15, 20)]
    + [[f"drift{i}", REASON, "drift7"] for i in range(7)]
)


def test_of_equal_texts_the_oldest_stays(tmp_path):
    assert collect(tmp_path, exact, corpus()) == EXACT


def test_of_near_copies_the_oldest_of_the_whole_chain_stays(tmp_path):
    assert collect(tmp_path, fuzzy, corpus()) == FUZZY


def test_the_result_is_the_same_in_any_order_and_on_any_number_of_workers(tmp_path):
    documents = corpus()
    random.Random(9).shuffle(documents)
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    assert collect(tmp_path / "threads", fuzzy, documents, *workers) == FUZZY


@pytest.mark.network
def test_the_result_is_the_same_when_workers_are_processes(tmp_path):
    def both(documents):
        return (documents | "exact" >> beam.Filter(bool) | ExactDuplicates(), documents | FuzzyDuplicates(CONFIG))

    def build(documents):
        pairs = both(documents) | beam.Flatten()
        return pairs | beam.MapTuple(lambda id, drop: [id, drop.reason, drop.value])

    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert collect(tmp_path, build, corpus(), *workers) == sorted(EXACT + FUZZY)


def test_no_text_is_shuffled():
    """What enters every grouping is hashes and names, by its declared type."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    documents = pipeline | beam.Create(corpus(), reshuffle=False)
    documents | ExactDuplicates()
    documents | FuzzyDuplicates(CONFIG)
    grouped = []

    class Groupings(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, beam.GroupByKey):
                grouped.extend(each.element_type for each in node.inputs)

    pipeline.visit(Groupings())
    assert len(grouped) == 2 + 2 * CONFIG.rounds + 3
    key_and_name = [tuple[bytes, str], tuple[str, str], tuple[int, tuple[str, str]]]
    # The last join tags pairs of names by the side they come from.
    joined = tuple[str, tuple[str, str]]
    for declared in grouped:
        assert declared in [convert_to_beam_type(each) for each in (*key_and_name, joined)], declared


def test_a_bucket_of_thousands_makes_as_many_edges_not_their_square():
    nodes = [f"{i:05d}" for i in range(20_000)]
    random.Random(1).shuffle(nodes)
    assert sorted(star(nodes)) == [(node, "00000") for node in sorted(nodes)[1:]]


def test_white_space_alone_makes_no_difference_to_a_fingerprint():
    assert fingerprint("a  b\r\nc ") == fingerprint("\ta b c") != fingerprint("a b C")
    assert fingerprint("a, b") != fingerprint("a b")
    assert len(fingerprint("\ud800")) == 16
