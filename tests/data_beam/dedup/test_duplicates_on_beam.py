"""Duplicates on Beam: the oldest stays, components are the graph's, nothing depends on rounds, order or workers."""

import json
import random
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from data_beam.dedup.exact import ExactDuplicates, fingerprint
from data_beam.dedup.minhash import ONE_JOB_ROUNDS, FuzzyDuplicates
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
    hashes_and_names = convert_to_beam_type(tuple[bytes, bytes])
    others = [each for each in grouped if each != hashes_and_names]
    assert len(grouped) - len(others) == 2 + 2 + 4 * ONE_JOB_ROUNDS + 1
    assert len(others) == 1 and "bytes" not in str(others) and "str" not in str(others)  # how many are not settled


def test_white_space_alone_makes_no_difference_to_a_fingerprint():
    assert fingerprint("a  b\r\nc ") == fingerprint("\ta b c") != fingerprint("a b C")
    assert fingerprint("a, b") != fingerprint("a b")
    assert len(fingerprint("\ud800")) == 16
