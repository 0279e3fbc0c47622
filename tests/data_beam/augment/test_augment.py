from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import zstandard

from data_beam.augment.copies import Augment
from data_beam.augment.run import augment
from data_beam.document import Document
from maxllm.config.augment import AugmentConfig
from maxllm.config.errors import UserError

NOISE = {"characters": {"rate": 0.2}, "words": {"rate": 0.1}}


def document(text: str, name: str = "a" * 32, **metadata) -> Document:
    return Document(name, text, "web", "2026-01-01T00:00:00Z", "2025-05-05", metadata)


def copies_of(item: Document, **settings) -> list[Document]:
    return list(Augment(AugmentConfig(**settings))(item))


def test_a_copy_says_what_it_is():
    original = document("The quick brown fox. " * 20, url="http://x", signals={"q": {"version": "1"}})
    first, second = copies_of(original, copies=2, seed=5, sentences={"enabled": True}, **NOISE)
    assert len({original.id, first.id, second.id}) == 3 and first.text != second.text
    assert first.metadata["augmented_from"] == original.id and first.metadata["group"] == original.id
    assert "signals" not in first.metadata and first.metadata["url"] == "http://x"
    assert (first.source, first.created, first.added) == (original.source, original.created, original.added)
    record = first.metadata["augmentation"]
    assert [step["name"] for step in record] == ["sentences", "words", "characters"]
    assert record[2]["rate"] == 0.2 and record[2]["seed"] == 5 and record[2]["changed"] > 10
    json.dumps(first.metadata)


def test_the_group_of_the_original_goes_with_its_copies():
    (copy,) = copies_of(document("some words here", group="example.org"), words={"rate": 1.0, "kinds": ["repeat"]})
    assert copy.metadata["group"] == "example.org" and copy.text == "some some words words here here"


def test_copies_depend_on_seed_id_and_number_alone():
    item = document("The quick brown fox jumps. " * 9)
    assert copies_of(item, copies=3, **NOISE)[:2] == copies_of(item, copies=2, **NOISE)
    texts = {copies_of(item, seed=seed, **NOISE)[0].text for seed in range(5)}
    texts |= {copies_of(document(item.text, name), **NOISE)[0].text for name in "bcd"}
    ids = {copies_of(item, seed=seed, **NOISE)[0].id for seed in range(5)}
    assert len(texts) == 8 and len(ids) == 5


@pytest.mark.parametrize("text", ["", " ", "\n\n", "!!", "é"])
def test_a_text_in_which_nothing_changes_has_no_copy(text):
    assert (
        copies_of(document(text), words={"rate": 1.0, "kinds": ["drop", "swap"]}, variants={"kinds": ["lower"]}) == []
    )


def test_equal_copies_are_made_once():
    assert len(copies_of(document("ABC"), copies=5, variants={"kinds": ["lower"]})) == 1


def test_settings_that_do_nothing_are_refused(tmp_path):
    for settings, problem in (
        ({}, "no transform is on"),
        ({"words": {"rate": 0.1, "kinds": []}}, "words.kinds is empty"),
    ):
        with pytest.raises(UserError, match=problem):
            Augment(AugmentConfig(**settings))
    with pytest.raises(ValueError, match="needs synonyms.table"):
        AugmentConfig(synonyms={"rate": 0.1})
    with pytest.raises(UserError, match="documents is empty"):
        augment(AugmentConfig(**NOISE))


def read(folder: Path) -> list[dict]:
    found = []
    for path in sorted(folder.glob("*.jsonl.zst")):
        with zstandard.open(path) as stream:
            found += [json.loads(line) for line in io.TextIOWrapper(io.BytesIO(stream.read()), "utf-8")]
    return sorted(found, key=lambda record: record["id"])


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("source") / "in.jsonl"
    texts = [f"Document {n} is about number {n}. It ends here." for n in range(30)]
    records = [document(text, f"{n:032x}", group=f"g{n % 3}").to_json() for n, text in enumerate(texts)]
    records.append(document("def f(x): return x", "c" * 32, content_type="code").to_json())
    path.write_text("\n".join([*map(json.dumps, records), "broken"]))
    return str(path)


def test_originals_and_copies_on_beam(source, tmp_path):
    config = AugmentConfig(
        documents=[source], copies=2, output={"path": str(tmp_path / "out"), "source": "{source}-noisy"}, **NOISE
    )
    report = augment(config)
    assert (report["read"], report["kept"], report["dead"], report["copies"]) == (32, 31, 1, 60)
    written = read(tmp_path / "out" / "documents")
    originals = [record for record in written if "augmented_from" not in record["metadata"]]
    copies = [record for record in written if "augmented_from" in record["metadata"]]
    assert len(originals) == 31 and len(copies) == 60 and len({record["id"] for record in written}) == 91
    assert {record["source"] for record in originals} == {"web"} and {c["source"] for c in copies} == {"web-noisy"}
    code = next(record for record in originals if record["id"] == "c" * 32)
    assert code["text"] == "def f(x): return x" and all(c["metadata"]["augmented_from"] != "c" * 32 for c in copies)
    groups = {record["id"]: record["metadata"].get("group") for record in originals}
    assert all(copy["metadata"]["group"] == groups[copy["metadata"]["augmented_from"]] for copy in copies)
    # The same on another number of files and workers: a copy is a function of its original.
    stage, read_back = Augment(config), [Document.from_json(record) for record in originals]
    by_hand = {copy.id: copy.text for item in read_back if stage.changes(item) for copy in stage(item)}
    assert by_hand == {copy["id"]: copy["text"] for copy in copies}
    assert augment(config) == report


def test_originals_can_be_left_out(source, tmp_path):
    config = AugmentConfig(documents=[source], keep_original=False, output={"path": str(tmp_path)}, **NOISE)
    report = augment(config)
    assert (report["kept"], report["dropped"], report["copies"]) == (1, 30, 30)
    assert {record["metadata"]["drop_reason"] for record in read(tmp_path / "rejected")} == {"augment.original"}
    assert sum("augmented_from" in record["metadata"] for record in read(tmp_path / "documents")) == 30
