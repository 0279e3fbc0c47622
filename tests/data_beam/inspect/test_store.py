"""Every outcome of a run is found again: by filter, by word, by what it is a copy of, however damaged its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.inspect.store import Store
from maxllm.config.errors import UserError
from tests.data_beam.inspect.conftest import HOSTILE, WORD


def filled(run: Path, limit: int = 1000) -> Store:
    store = Store(":memory:")
    store.fill(str(run), limit)
    return store


@pytest.fixture(scope="module")
def store(run_folder):
    return filled(run_folder)


def names(store: Store, **filters: str) -> list[str]:
    return sorted(row["name"] for row in store.page(filters, 0, 100)["rows"])


def test_filters_count_what_a_run_left(store, run_folder):
    choices = store.choices({})
    assert choices["folder"] == [("documents", 13), ("rejected", 4), ("dead", 1)]
    assert dict(choices["reason"]) == {
        "": 13,
        "exact_dedup.duplicate": 1,
        "fuzzy_dedup.near_duplicate": 1,
        "gopher.word_count": 1,
        "decontamination.ngram_overlap": 1,
        "failed in read": 1,
    }
    # As the funnel of report.json has it: gopher is a rule set of quality.
    lost = {row["stage"]: row["dropped"] + row["dead"] for row in store.report["funnel"]}
    assert {stage: count for stage, count in choices["stage"] if stage} == {k: n for k, n in lost.items() if n}
    # A filter shows its own other values under the rest of the filters.
    chosen = store.choices({"folder": "rejected", "reason": "gopher.word_count"})
    assert len(chosen["reason"]) == 4 and chosen["folder"] == [("rejected", 1)]
    assert dict(chosen["source"]) == {"sea": 1}


def test_search_finds_words_their_beginnings_paths_and_ids(store):
    assert (
        names(store, query=WORD) == names(store, query="xylo CAFE") == names(store, query="sea/0.txt") == ["sea/0.txt"]
    )
    assert names(store, query="京都") == ["sea/0.txt"] and names(store, query="京東") == []
    assert names(store, query="zeppelin") == ["near-copy.txt"]
    assert names(store, query=f"{WORD} zeppelin") == names(store, query="phone") == []
    [row] = store.page({"query": WORD}, 0, 10)["rows"]
    assert names(store, query=row["id"]) == ["sea/0.txt"]
    assert names(store, query=WORD, folder="rejected") == []


@pytest.mark.parametrize(
    "query", ['"', "*", "a OR", "text:", "NEAR(a b)", "\0", "'; DROP TABLE outcomes", "-", "(", "\ud800"]
)
def test_what_is_typed_is_never_a_command(store, query):
    query = query.encode("utf-8", "replace").decode()
    assert store.page({"query": query}, 0, 10)["total"] <= 18
    assert store.choices({"query": query, "source": query})


def test_a_duplicate_has_the_one_that_stayed_and_that_one_has_its_copies(store):
    for reason, name, original in (
        ("exact_dedup.duplicate", "exact-copy.txt", "first.txt"),
        ("fuzzy_dedup.near_duplicate", "near-copy.txt", "original.txt"),
    ):
        [row] = store.page({"reason": reason}, 0, 10)["rows"]
        copy = store.document(row["number"])
        assert (copy["name"], copy["kept"]["name"], copy["kept"]["folder"]) == (name, original, "documents")
        kept = store.document(copy["kept"]["number"])
        assert [(each["number"], each["reason"]) for each in kept["copies"]] == [(row["number"], reason)]
        [listed] = [row for row in store.page({"query": original}, 0, 10)["rows"] if row["name"] == original]
        assert (listed["copies"], kept["copies_total"]) == (1, 1)


def test_a_near_meaning_names_its_likeness_and_who_stayed_then_may_have_gone_later(tmp_path, write_part):
    first, second, third = (Document(f"id {n}", f"text {n}", "s", "") for n in range(3))
    write_part(tmp_path / "documents", [first])
    write_part(
        tmp_path / "rejected",
        [
            Rejected(second, Drop("semantic_dedup.near_meaning", "id 0 0.971")),
            Rejected(third, Drop("exact_dedup.duplicate", "id 1")),
        ],
    )
    store = filled(tmp_path)
    found = {row["id"]: store.document(row["number"]) for row in store.page({}, 0, 10)["rows"]}
    assert found["id 1"]["kept"]["id"] == "id 0"
    assert (found["id 2"]["kept"]["id"], found["id 2"]["kept"]["folder"]) == ("id 1", "rejected")


def test_what_was_measured_is_there(store):
    [row] = store.page({"query": WORD}, 0, 10)["rows"]
    assert store.document(row["number"])["metadata"]["scores"] == {"education": 2.5}
    [row] = store.page({"reason": "decontamination.ngram_overlap"}, 0, 10)["rows"]
    [item] = store.document(row["number"])["metadata"]["contamination"]
    assert item["fraction"] == 1


@pytest.mark.parametrize("format", ["jsonl.zst", "jsonl.gz", "jsonl", "parquet"])
def test_every_output_format_is_read(tmp_path, write_part, format):
    text = "A tide\n" + HOSTILE.replace("\ud800", "?")
    write_part(
        tmp_path / "documents",
        [Document("1", text, "s", "2020", metadata={"language": "en", "pii": {"email": 2}})],
        format,
    )
    store = filled(tmp_path)
    [row] = store.page({"language": "en"}, 0, 10)["rows"]
    whole = store.document(row["number"])
    assert (whole["text"], whole["metadata"]["pii"], whole["source"]) == (text, {"email": 2}, "s")
    assert store.report == {}  # there was none


@pytest.mark.parametrize(
    ("folder", "name", "keep"),
    [("documents", "part.jsonl.zst", 0.5), ("rejected", "part.jsonl.zst", 0.5), ("dead", "part.jsonl.zst", 0.5)]
    + [("documents", "part.parquet", 0.5), ("documents", "part.jsonl.gz", 0.9), ("dead", "part.jsonl", 0.9)],
)
def test_a_damaged_file_is_a_dead_letter_and_the_others_are_read(tmp_path, write_part, folder, name, keep):
    documents = [Document(str(n), f"{n} " + HOSTILE.replace("\ud800", "?") * 9, "s", "") for n in range(200)]
    outcomes = {
        "documents": documents,
        "rejected": [Rejected(each, Drop("a.b", 1)) for each in documents],
        "dead": [DeadLetter(each.id, "extract", each.text) for each in documents],
    }
    for each, content in outcomes.items():
        write_part(tmp_path / each, content[:1])
    path = write_part(tmp_path / folder, outcomes[folder], name.removeprefix("part."))
    data = path.read_bytes()
    path.with_name(name).write_bytes(data[: int(len(data) * keep)])
    path.unlink()
    store = filled(tmp_path)
    [letter] = store.page({"reason": "failed in inspect"}, 0, 10)["rows"]
    assert letter["name"].startswith(f"{folder}/{name}") and letter["folder"] == "dead"
    counts = dict(store.choices({})["folder"])
    assert all(counts[each] >= 1 for each in outcomes)


def test_of_a_large_run_rare_reasons_are_whole_and_pairs_complete(tmp_path, write_part):
    kept = [Document(f"k{n}", f"number {n}", "s", "") for n in range(300)]
    copies = [Rejected(Document(f"c{n}", "", "s", ""), Drop("exact_dedup.duplicate", f"k{n}")) for n in range(100)]
    rare = [Rejected(Document(f"r{n}", "", "s", ""), Drop("gopher.word_count", n)) for n in range(7)]
    write_part(tmp_path / "documents", kept)
    write_part(tmp_path / "rejected", copies + rare)
    store = filled(tmp_path, limit=47)
    counts = dict(store.choices({})["reason"])
    assert (store.seen, counts["gopher.word_count"], counts["exact_dedup.duplicate"]) == (407, 7, 20)
    rows = store.page({"reason": "exact_dedup.duplicate"}, 0, 100)["rows"]
    assert all(store.document(row["number"])["kept"]["id"] == "k" + row["id"][1:] for row in rows)
    assert store.held == 27 + counts[""] <= 47 + 20
    assert names(store, query=rows[0]["id"]) and not names(store, query="nothing")


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path):
    with pytest.raises(UserError, match="give the output folder of maxllm curate"):
        filled(tmp_path)
