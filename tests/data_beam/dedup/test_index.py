"""Sets that come one after the other lose the same documents as if they had come together."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_beam.dedup.nodes import as_old, is_old, node, unpacked_id
from data_beam.document import Document
from maxllm.config.dedup import DedupIndexConfig, ExactDedupConfig, FuzzyDedupConfig
from maxllm.config.errors import UserError

URLS = ExactDedupConfig(url=True)
ONLY_EXACT = FuzzyDedupConfig(enabled=False)
FUZZY = "fuzzy_dedup.near_duplicate"


def sets() -> list[list[Document]]:
    """Three sets, each newer than the last; copies of all kinds inside and between them."""
    rng = random.Random(7)
    vocabulary = [f"word{i}" for i in range(3000)]
    found: list[list[Document]] = [[], [], []]
    count = 0

    def add(number: int, name: str, words: list[str], url: str = "", space: str = " ") -> None:
        nonlocal count
        count += 1
        metadata = {"url": url} if url else {}
        found[number].append(
            Document(
                name.ljust(32, "0"), space.join(words), "s", f"20{number}0-01-{count % 28 + 1:02d}", None, metadata
            )
        )

    def fresh() -> list[str]:
        return rng.choices(vocabulary, k=300)

    for number, copies in enumerate([(0, 0), (0, 1), (0, 2), (1, 2), (0, 1, 2), (1, 1, 2), (2, 2)]):
        exact, near = fresh(), fresh()
        for place, each in enumerate(copies):
            add(each, f"eace{number}{place}", exact, space=" " if place % 2 else "\n")
            near = list(near)
            near[10 * place] = "edited"
            add(each, f"aea{number}{place}", near)
            add(each, f"acce{number}{place}", fresh(), f"http://Site.org/{number}/?utm_source=set{place}#{place}")
    # A page that drifts away, five words a step: the first and the last of its sightings in the first set are not
    # alike enough to meet; the second set's is like both; the third set's is like the last only.
    drifting, steps = fresh(), []
    for step in range(14):
        drifting = list(drifting)
        drifting[step * 20 : step * 20 + 5] = rng.choices(vocabulary, k=5)
        steps.append(drifting)
    for number, step in ((0, 0), (0, 8), (1, 4), (2, 12)):
        add(number, f"d{step:03d}", steps[step])
    return found


def test_sets_in_sequence_lose_what_they_lose_together(duplicates, tmp_path):
    first, second, third = sets()
    together = duplicates(first + second + third, URLS, name="together")
    folders = [str(tmp_path / f"index{number}") for number in range(3)]
    for number, documents in enumerate((first, second, third)):
        kept = DedupIndexConfig(read=folders[:number], write=folders[number])
        alone = duplicates(documents, URLS, kept=kept, name=f"set{number}")
        if number == 0:
            assert not any(each.startswith("d") for each in alone)  # the ends of the drift do not meet by themselves
        else:
            assert alone == {each.id: together[each.id] for each in documents if each.id in together}
            assert {reason for drops in alone.values() for reason, _ in drops} == {
                "exact_dedup.duplicate",
                "exact_dedup.url",
                FUZZY,
            }
    oldest = "d000".ljust(32, "0")
    assert together["d008".ljust(32, "0")] == {(FUZZY, oldest)}
    assert alone["d012".ljust(32, "0")] == {(FUZZY, oldest)}  # by way of a label that the second set's index changed


def test_an_old_document_stays_however_young_its_copy_looks(duplicates, tmp_path):
    path = str(tmp_path / "index")
    old = Document("old", "one two three four five six", "s", "2020")
    duplicates([old], fuzzy=ONLY_EXACT, kept=DedupIndexConfig(write=path))
    copy = Document("new", "one two three four five six", "s", "1999")
    moved = tmp_path / "moved"
    Path(path).rename(moved)
    found = duplicates([copy], fuzzy=ONLY_EXACT, kept=DedupIndexConfig(read=[str(moved)]), name="second")
    assert found == {"new": {("exact_dedup.duplicate", "old")}}


def test_an_index_that_does_not_fit_is_a_sentence(duplicates, tmp_path):
    path = str(tmp_path / "index")
    with pytest.raises(UserError, match="holds no index.json"):
        duplicates([], kept=DedupIndexConfig(read=[path]))
    duplicates([], fuzzy=ONLY_EXACT, kept=DedupIndexConfig(write=path))
    for settings in ({"fuzzy": FuzzyDedupConfig()}, {"exact": URLS}):
        with pytest.raises(UserError, match="was written with .* settings"):
            duplicates([], kept=DedupIndexConfig(read=[path]), **settings)
    with pytest.raises(ValidationError, match="an index never changes"):
        DedupIndexConfig(read=[path], write=path)


def test_an_index_written_anew_leaves_no_old_files(duplicates, tmp_path):
    documents = [Document("a", "one two three four five", "s", "2020")]
    for name in ("first", "second"):
        duplicates(documents, fuzzy=ONLY_EXACT, kept=DedupIndexConfig(write=str(tmp_path / "index")), name=name)
    files = json.loads((tmp_path / "index" / "index.json").read_text())["files"]
    assert {path.name for path in (tmp_path / "index").rglob("*.zst")} == {
        name for each in files.values() for name in each
    }


def test_names_hold_their_ids_and_old_ones_sort_first():
    for id in ("0" * 32, "0123456789abcdef" * 2 + "@0000012.000000345", "a name", "né@0000001.000000002", "\ud800", ""):
        name = node(Document(id, "", "s", "2020-01-01"))
        assert unpacked_id(name) == id and not is_old(name) and is_old(as_old(name))
        assert unpacked_id(as_old(name)) == id.partition("@")[0] and as_old(as_old(name)) == as_old(name)
        assert as_old(name) < node(Document("", "", "s", "0001"))
    assert len(node(Document("0" * 32, "", "s", ""))) == 25
