"""Hugging Face data sets, local and real: every shard once, the same ids however they are read."""

from __future__ import annotations

import json
import sys

import pytest

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.io import hf, source
from maxllm.config.curate import InputConfig
from maxllm.config.errors import UserError

datasets = pytest.importorskip("datasets")

ROWS = [{"text": f"document {n} about the sea — größer", "n": n, "tags": ["a", None]} for n in range(60)]


def read_all(**settings) -> tuple[list[source.Read], int]:
    config = InputConfig(format="hf", **settings)
    works = list(hf.list_work(config))
    return [item for work in works for item in source.read(config, work)], len(works)


def check(items) -> None:
    assert sorted((item.metadata["n"], item.text) for item in items) == [(row["n"], row["text"]) for row in ROWS]
    assert len({item.id for item in items}) == len(ROWS)
    assert all(item.metadata["tags"] == ["a", None] and item.added > "2024" for item in items)


@pytest.fixture
def files(tmp_path):
    """Three files of 20 rows in each format that data sets come in."""
    made = {}
    for format, suffix in (("parquet", "parquet"), ("json", "jsonl"), ("json", "jsonl.gz")):
        folder = tmp_path / suffix
        folder.mkdir()
        for part in range(3):
            data = datasets.Dataset.from_list(ROWS[part * 20 : part * 20 + 20])
            path = str(folder / f"train-{part}.{suffix}")
            data.to_parquet(path) if format == "parquet" else data.to_json(path, compression="infer")
        made[suffix] = folder
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=3)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(
        tmp_path / "splits", num_shards={"train": 3}
    )
    made |= {"saved": tmp_path / "saved", "splits": tmp_path / "splits"}
    return made


@pytest.mark.parametrize("name", ["parquet", "jsonl", "jsonl.gz", "saved", "splits"])
def test_every_shard_is_a_piece_of_work_and_every_row_is_read_once(files, name):
    items, works = read_all(paths=[str(files[name])])
    assert works == 3
    check(items)
    # With a limit, the first documents, and the same ids.
    some, works = read_all(paths=[str(files[name])], limit=33)
    assert works == 1 and [item.id for item in some] == [item.id for item in items][:33]


def test_files_and_globs(files):
    check(read_all(paths=[str(files["parquet"] / "train-*.parquet")])[0])
    check(read_all(paths=sorted(str(path) for path in files["jsonl"].iterdir()))[0])


def test_splits_are_taken_by_name(tmp_path, files):
    (tmp_path / "parquet" / "test-0.parquet").write_bytes((tmp_path / "parquet" / "train-1.parquet").read_bytes())
    items, _ = read_all(paths=[str(files["parquet"])], split="test")
    assert [item.metadata["n"] for item in items] == list(range(20, 40))
    with pytest.raises(UserError, match="no split 'nowhere'"):
        read_all(paths=[str(files["parquet"])], split="nowhere")
    with pytest.raises(UserError, match="no split 'nowhere'; it has train"):
        read_all(paths=[str(files["splits"])], split="nowhere")


def test_rows_without_text_and_long_ones_and_a_broken_file(tmp_path):
    rows = [{"body": "fine"}, {"body": None}, {"body": "x" * 2000}, {"body": "last"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items, _ = read_all(paths=[str(tmp_path / "a.jsonl")], text_key="body", max_bytes=1000)
    assert [type(item) for item in items] == [Document, DeadLetter, Rejected, Document]
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "b.parquet"))
    data = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:400] + b"\0" * 100 + data[500:])
    items, _ = read_all(paths=[str(tmp_path / "b.parquet")])
    assert isinstance(items[-1], DeadLetter) and "b.parquet" in items[-1].where


def test_what_cannot_be_reached_is_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is the hub in reach"):
        read_all(paths=["nobody/nothing"])
    with pytest.raises(UserError, match="data set nobody/nothing:en cannot be opened"):
        read_all(paths=["nobody/nothing:en"])
    with pytest.raises(UserError, match="there is no .*/nowhere/x"):
        read_all(paths=["/nowhere/x"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        read_all(paths=[str(tmp_path / "empty")])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'maxllm\[hf\]'"):
        read_all(paths=[str(tmp_path)])


def test_nobodys_code_is_run_and_nothing_is_unpickled(tmp_path):
    """A data set's script, a pickle and a tar of pickles are refused; none of them is opened."""
    import pickle

    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    for name, content in (
        ("code/code.py", f"open({str(tmp_path / 'harmed')!r}, 'w')".encode()),
        ("pickled/a.pkl", pickle.dumps(Harm())),
        ("tarred/a.tar", b"\0" * 1024),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
        for path in (tmp_path / name, (tmp_path / name).parent):
            with pytest.raises(UserError):
                read_all(paths=[str(path)])
    assert not (tmp_path / "harmed").exists()


def test_a_set_that_changed_between_listing_and_reading_is_not_half_read(files):
    config = InputConfig(format="hf", paths=[str(files["parquet"])])
    work = next(iter(hf.list_work(config)))
    (files["parquet"] / "train-2.parquet").unlink()
    (item,) = source.read(config, work)
    assert isinstance(item, DeadLetter) and "changed meanwhile" in item.error


def test_the_listing_tells_when_a_local_set_changed(files):
    config = InputConfig(format="hf", paths=[str(files["jsonl"])])
    before = hf.listing(config)
    assert len(before) == 3
    (files["jsonl"] / "train-2.jsonl").write_text("{}")
    assert hf.listing(config) != before
