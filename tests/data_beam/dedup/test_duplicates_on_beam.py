"""Duplicates on Beam: the oldest stays, and nothing depends on rounds, jobs, order or workers."""

import random

import apache_beam as beam
import pytest
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type

from data_beam.dedup.exact import ExactDuplicates, fingerprint
from data_beam.dedup.lines import LineDedup
from data_beam.dedup.minhash import ONE_JOB_ROUNDS, FuzzyDuplicates
from data_beam.dedup.urls import normalised_url
from data_beam.document import Document
from maxllm.config.dedup import ExactDedupConfig, FuzzyDedupConfig, LineDedupConfig

EXACT, URL, FUZZY = "exact_dedup.duplicate", "exact_dedup.url", "fuzzy_dedup.near_duplicate"
NO_FUZZY = FuzzyDedupConfig(enabled=False)


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
    for step in range(40):
        drifting = list(drifting)
        drifting[step * 20 % 300 : step * 20 % 300 + 5] = rng.choices(vocabulary, k=5)
        add(f"drift{step:02d}", drifting, 2001 + (step * 17 + 11) % 40)
    add("short", ["too", "short"], 2010)
    add("empty1", [], 2010)
    add("empty0", [], 2010)
    return documents


def expected() -> dict[str, set[tuple[str, str]]]:
    found = {f"near{i:02d}": {(FUZZY, f"t{i:02d}")} for i in range(0, 10, 2)}
    found |= {f"t{i:02d}": {(FUZZY, f"near{i:02d}")} for i in range(1, 10, 2)}
    found |= {f"t{i}": {(EXACT, f"copy{i}"), (FUZZY, f"copy{i}")} for i in range(15, 20)}
    found |= {f"drift{i:02d}": {(FUZZY, "drift37")} for i in range(40) if i != 37}
    return found | {"empty1": {(EXACT, "empty0")}}


def test_of_copies_and_near_copies_the_oldest_of_the_whole_chain_stays(duplicates):
    assert duplicates(corpus(), fuzzy=FuzzyDedupConfig(rounds=5)) == expected()
    assert duplicates.jobs == 1


def test_the_result_is_the_same_in_any_order_in_several_jobs_on_several_workers_after_a_kill(duplicates):
    documents = corpus()
    random.Random(9).shuffle(documents)
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    duplicates.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        duplicates(documents, ExactDedupConfig(), FuzzyDedupConfig(rounds=1), None, "run", *workers)
    duplicates.stop_after = None
    assert duplicates(documents, ExactDedupConfig(), FuzzyDedupConfig(rounds=1), None, "run", *workers) == expected()
    assert 2 <= duplicates.jobs <= 5  # the first job was not done again, one more at least was needed


@pytest.mark.network
def test_the_result_is_the_same_when_workers_are_processes(duplicates):
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert duplicates(corpus(), ExactDedupConfig(), FuzzyDedupConfig(), None, "run", *workers) == expected()


def test_one_job_does_the_same_or_says_that_it_cannot(collect, monkeypatch):
    documents = [each for each in corpus() if each.id.startswith("drift")]
    drops = collect(FuzzyDuplicates(FuzzyDedupConfig()), documents)
    assert {id: {(drop.reason, drop.value)} for id, drop in drops} == {
        id: drops for id, drops in expected().items() if id.startswith("drift")
    }
    monkeypatch.setattr("data_beam.dedup.minhash.ONE_JOB_ROUNDS", 1)
    with pytest.raises(RuntimeError, match="not settled after 1 rounds"):
        collect(FuzzyDuplicates(FuzzyDedupConfig()), documents)


def test_one_document_stays_of_a_url_and_the_others_are_nobodys_original(duplicates):
    def page(id: str, text: str, year: int, url: object) -> Document:
        return Document(id, text, "s", f"{year}", metadata={"url": url})

    documents = [
        page("first", "the page as it was", 2001, "http://Example.org:80/a/?utm_source=x#top"),
        page("second", "the page as it is", 2002, "https://example.org/a?gclid=1"),
        page("copy of the second", "the page as it is", 2003, "https://copies.org/a"),
        page("other page", "another page", 2003, "https://example.org/A"),
        *(page(f"no url {url}", f"text {url}", 2003, url) for url in (None, 7, "not a url", "")),
    ]
    found = duplicates(documents, ExactDedupConfig(url=True), NO_FUZZY)
    assert found == {"second": {(URL, "first")}}  # so that the only text like its own stays
    assert duplicates.jobs == 2
    found = duplicates(documents, ExactDedupConfig(), NO_FUZZY, name="without urls")
    assert found == {"copy of the second": {(EXACT, "second")}}


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("http://example.org", "https://EXAMPLE.org./", True),
        ("https://example.org:443/a", "https://example.org/a/", True),
        ("https://example.org:8443/a", "https://example.org/a", False),
        ("http://user:secret@example.org/a", "http://example.org/a", True),
        ("https://example.org/a#b", "https://example.org/a", True),
        ("https://example.org/a?x=1&y=2", "https://example.org/a?y=2&utm_campaign=z&x=1&fbclid=q", True),
        ("https://example.org/a?id=1", "https://example.org/a?id=2", False),
        ("https://example.org/a?utm=1", "https://example.org/a", False),
        ("https://example.org/%7Euser/%c3%a9", "https://example.org/~user/é", True),
        ("https://example.org/a%2Fb", "https://example.org/a/b", False),
        ("https://bücher.example/", "https://xn--bcher-kva.example/", True),
        ("https://www.example.org/", "https://example.org/", False),
        ("https://example.org/A", "https://example.org/a", False),
    ],
)
def test_urls_are_the_same_that_differ_in_how_they_are_written(left, right, same):
    urls = normalised_url(left), normalised_url(right)
    assert None not in urls and (urls[0] == urls[1]) is same


@pytest.mark.parametrize(
    "url", ["", "example.org/a", "ftp://example.org/a", "http://", "http://[1", "http://a:99999/", "mailto:a"]
)
def test_what_is_no_web_address_has_no_url_to_compare(url):
    assert normalised_url(url) is None


def test_no_text_is_shuffled():
    """What enters every grouping is hashes and names, by its declared type."""
    pipeline = beam.Pipeline(runner=FnApiRunner())
    documents = pipeline | beam.Create(corpus(), reshuffle=False)
    documents | ExactDuplicates()
    documents | FuzzyDuplicates(FuzzyDedupConfig())
    documents | LineDedup(LineDedupConfig())
    grouped = []

    class Groupings(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, beam.GroupByKey):
                grouped.extend(each.element_type for each in node.inputs)

    pipeline.visit(Groupings())
    hashes_and_names = convert_to_beam_type(tuple[bytes, bytes])
    others = [each for each in grouped if each != hashes_and_names]
    assert len(grouped) - len(others) == 2 + 2 + 4 * ONE_JOB_ROUNDS + 1 + 2
    assert len(others) == 1 and "bytes" not in str(others) and "str" not in str(others)  # how many are not settled


def test_white_space_alone_makes_no_difference_to_a_fingerprint():
    assert fingerprint("a  b\r\nc ") == fingerprint("\ta b c") != fingerprint("a b C")
    assert fingerprint("a, b") != fingerprint("a b")
    assert len(fingerprint("\ud800")) == 16
