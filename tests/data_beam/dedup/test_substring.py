"""Repeated passages: exactly what comparing every place with every earlier one finds, on Beam, however it is split."""

import gzip
import json
import random
import re
from collections import defaultdict

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_beam.dedup import substring
from data_beam.dedup.pieces import pieces_of
from data_beam.dedup.substring import RepeatedSubstrings
from data_beam.dedup.winnow import blocks, leftmost_minima, unpack
from data_beam.document import Document
from maxllm.config.dedup_text import SubstringDedupConfig

PIECE = re.compile(r"[぀-ヿ一-鿿ก-ฺเ-๎]|[^\W぀-ヿ一-鿿ก-ฺเ-๎]+|[^\w\s]+")


def without(text: str, spans) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def brute_force(texts: list[str], n: int) -> list[str]:
    """Every run of n pieces against every earlier one, oldest text first; what is cut leaves its white space behind."""
    pieces = [[(match.group(), match.start(), match.end()) for match in PIECE.finditer(text)] for text in texts]
    runs = [
        (number, at, tuple(name for name, _, _ in row[at : at + n]))
        for number, row in enumerate(pieces)
        for at in range(len(row) - n + 1)
    ]
    marked = [[False] * len(row) for row in pieces]
    for this, (number, at, run) in enumerate(runs):
        for before, start, other in runs[:this]:
            if other == run:
                own = range(start, start + n) if before == number else ()
                for place in range(at, at + n):
                    marked[number][place] |= place not in own
                break
    results = []
    for text, row, marks in zip(texts, pieces, marked, strict=True):
        spans, at = [], 0
        while at < len(row):
            if not marks[at]:
                at += 1
                continue
            first = at
            while at < len(row) and marks[at]:
                at += 1
            start, end = row[first][1], row[at - 1][2]
            after = row[at][1] if at < len(row) else len(text)
            space_before = first == 0 or row[first - 1][2] < start
            if after > end:  # white space follows: all of it goes, or all but its last character
                end = after if space_before else after - 1
            spans.append((start, end))
        results.append(without(text, spans))
    return results


def in_memory(documents: list[Document], n: int, limit: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """The Beam steps one after the other, with dictionaries for groupings."""
    step, settle = substring._Blocks(n), substring._Settle(limit)
    anchors, grams, spans = defaultdict(list), defaultdict(list), defaultdict(list)
    for document in documents:
        for item in step.process(document):
            if isinstance(item, beam.pvalue.TaggedOutput):
                spans[item.value[0]].append(item.value[1])
            else:
                anchors[item[0]].append(item[1])
    for group in anchors.items():
        for item in settle.process(group):
            if isinstance(item, beam.pvalue.TaggedOutput):
                grams[item.value[0]].append(item.value[1])
            else:
                spans[item[0]].append(item[1])
    for group in grams.items():
        for id, found in substring._all_but_the_first(group):
            spans[id].append(found)
    return {id: substring._edit((id, found))[1].remove for id, found in spans.items()}


def documents_of(texts: list[str]) -> list[Document]:
    """The first text is the oldest. Ids are in another order."""
    return [Document(f"{99 - i:02d}", text, "test", f"2000-01-{i + 1:02d}") for i, text in enumerate(texts)]


words = st.lists(st.sampled_from(["a", "b", "a ", "b ", " ", "\n\n", "-", "- ", "語", "é", "กิ"]), max_size=40)
texts = st.lists(words.map("".join), min_size=1, max_size=5)


@settings(deadline=None, max_examples=300)
@given(texts, st.integers(2, 6), st.sampled_from([1, 2, 1000]), st.randoms())
@example(["a " * 30, "a " * 30], 3, 1000, random.Random(1))
@example(["x-a b c", "y-a b c z"], 3, 1, random.Random(1))
def test_what_is_cut_is_what_comparing_all_places_finds(texts, n, limit, rng):
    documents = documents_of(texts)
    rng.shuffle(documents)
    cut = in_memory(documents, n, limit)
    ordered = sorted(documents, key=lambda document: document.age_key)
    assert [without(each.text, cut.get(each.id, ())) for each in ordered] == brute_force(texts, n)


def corpus(size: int = 60) -> list[Document]:
    """Texts of random words with passages of 3 to 12 words planted; so small an alphabet repeats by itself too."""
    rng = random.Random(3)
    alphabet = [f"w{i}" for i in range(12)]
    passages = [rng.choices(alphabet, k=rng.randint(3, 12)) for _ in range(8)]
    texts = []
    for _ in range(size):
        parts = [rng.choices(alphabet, k=rng.randint(0, 10)), rng.choice(passages), rng.choices(alphabet, k=4)]
        texts.append(rng.choice([" ", "  ", "\n"]).join(word for part in parts for word in part))
    return documents_of(texts)


def on_beam(folder, documents: list[Document], n: int, limit: int, *options: str) -> dict[str, list]:
    folder.mkdir(exist_ok=True)
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
    (
        pipeline
        | beam.Create(documents, reshuffle=False)
        | RepeatedSubstrings(SubstringDedupConfig(min_tokens=n), limit)
        | beam.MapTuple(lambda id, edit: json.dumps([id, edit.reason, edit.remove]))
        | beam.io.WriteToText(str(folder / "out"))
    )
    pipeline.run().wait_until_finish()
    lines = [json.loads(line) for path in folder.glob("out*") for line in path.read_text().splitlines()]
    assert len({id for id, _, _ in lines}) == len(lines)
    assert {reason for _, reason, _ in lines} <= {"substring_dedup.repeated"}
    return {id: spans for id, _, spans in lines}


@pytest.mark.parametrize(
    ("limit", "options"),
    [(1 << 16, ()), (2, ()), (2, ("--direct_num_workers=2", "--direct_running_mode=multi_threading"))],
    ids=["in memory", "hot anchors", "two workers"],
)
def test_on_beam_in_any_order_and_on_any_number_of_workers(tmp_path, limit, options):
    documents = corpus()
    expected = brute_force([document.text for document in documents], 5)
    assert expected != [document.text for document in documents]
    shuffled = random.Random(5).sample(documents, len(documents))
    cut = on_beam(tmp_path, shuffled, 5, limit, *options)
    assert [without(each.text, cut.get(each.id, ())) for each in documents] == expected


@pytest.mark.network
def test_on_beam_with_workers_in_processes(tmp_path):
    documents = corpus()
    options = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert on_beam(tmp_path / "a", documents, 5, 2, *options) == on_beam(tmp_path / "b", documents, 5, 1 << 16)


def test_passages_of_fifty_pieces_and_more_planted_into_real_texts_are_cut_and_shorter_ones_stay(tmp_path, shared_data):
    with gzip.open(shared_data / "corpus" / "c4_demo.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    clean = documents_of(texts[:60])
    passage = [match.group() for match in PIECE.finditer(texts[100])]
    assert len(passage) > 80
    before = on_beam(tmp_path / "before", clean, 50, 1 << 16)
    oldest, *others, spared = [number for number in range(60) if clean[number].id not in before][::10][:4]
    planted = list(clean)
    for number, length in zip((oldest, *others, spared), (80, 80, 50, 49), strict=True):
        half = clean[number].text.find(" ", len(clean[number].text) // 2) + 1
        text = clean[number].text[:half] + " ".join(passage[:length]) + " " + clean[number].text[half:]
        planted[number] = clean[number].with_text(text)
    after = on_beam(tmp_path / "after", planted, 50, 1 << 16)
    assert after.keys() == before.keys() | {clean[number].id for number in others}
    for number, document in enumerate(planted):
        expected = planted[number].text if number in (oldest, spared) else clean[number].text
        assert without(document.text, after.get(document.id, ())) == without(expected, before.get(document.id, ()))


def test_no_text_is_shuffled():
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | beam.Create(corpus(), reshuffle=False) | RepeatedSubstrings(SubstringDedupConfig())
    declared = []

    class Groupings(PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, beam.GroupByKey):
                declared.extend(str(each.element_type) for each in node.inputs)

    pipeline.visit(Groupings())
    node_and_bytes, gram = "Tuple[bytes, Tuple[str, bytes]]", "Tuple[bytes, Tuple[str, int, int]]"
    assert [re.sub(r"<class '(\w+)'>", r"\1", each) for each in declared] == [node_and_bytes, gram, "Tuple[str, bytes]"]


def test_about_sixteen_bytes_a_piece_are_shuffled():
    rng = random.Random(1)
    text = " ".join(rng.choices([f"word{i}" for i in range(3000)], k=20_000))
    name = 20 + 1 + 32 + 18  # a time, a separator, an id, a place in the run
    found, repeated = blocks(pieces_of(text), 50)
    assert not len(repeated)
    assert 14 < sum(len(key) + name + len(packed) for key, packed in found) / 20_000 < 17


def test_a_row_of_one_word_costs_as_little_as_its_first_passage():
    found, repeated = blocks(pieces_of("word " * 100_000), 50)
    assert len(found) == 1 and len(unpack(found[0][1]).hashes) == 1
    assert repeated.tolist() == [[50 * 5 * 2 + 1, 100_000 * 5 * 2 + 1]]


def test_steps_between_bounds_of_any_size_survive_packing():
    text = " ".join(["a", "b" * 300, "c", "d" * 70_000, "e", "f", "g" * 100])
    pieces = pieces_of(text)
    grams = [unpack(packed) for _, packed in blocks(pieces, 2)[0]]
    assert np.concatenate([each.starts for each in grams]).tolist() == pieces.bounds[:-2].tolist()
    assert np.concatenate([each.ends for each in grams]).tolist() == pieces.bounds[2:].tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 12))
def test_the_smallest_of_each_window_is_the_leftmost(values, window):
    window = min(window, len(values))
    expected = [at + int(np.argmin(values[at : at + window])) for at in range(len(values) - window + 1)]
    assert leftmost_minima(np.array(values), window).tolist() == expected


def test_pieces_are_runs_of_letters_of_signs_and_single_characters_where_no_spaces_part_words():
    text = "Don't stop_it -- 日本語 กิน हिन्दी, \ud800!"
    bounds = pieces_of(text).bounds
    starts = [(int(bound) >> 1, int(bound) & 1) for bound in bounds]
    named = [text[a:b].strip() for (a, _), (b, _) in zip(starts[:-1], starts[1:], strict=True)]
    assert named == ["Don", "'", "t", "stop_it", "--", "日", "本", "語", "ก", "ิ", "น", "हिन्दी", ",", "\ud800!"]
    assert [spaced for _, spaced in starts] == [1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert pieces_of("").bounds.tolist() == [1] and pieces_of(" \n").bounds.tolist() == [5]


def test_equal_pieces_have_equal_hashes_wherever_they_stand():
    hashes = pieces_of("one two, Two one two").hashes.tolist()
    assert hashes[0] == hashes[4] and hashes[1] == hashes[5] and len(set(hashes)) == 4
