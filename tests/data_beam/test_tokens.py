from __future__ import annotations

import gzip
import inspect
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_beam.document import Document
from data_beam.tokenizer_training import SmallestSample
from data_beam.tokens import tokenize
from maxllm.config.errors import UserError
from maxllm.config.tokenize import TokenizeConfig, TokenizerConfig
from maxllm.data.dataset import read_documents
from maxllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def documents() -> list[dict]:
    draw = random.Random(0)
    lines = "".join(inspect.getsource(__import__(name)) for name in ("ast", "bdb", "cmd", "dis")).splitlines(True)
    return [
        {
            "id": f"{number:032x}",
            "text": "".join(lines[start : start + draw.randint(1, 30)]),
            "source": "code" if number % 3 else "web/en",
            "added": "2026-01-01T00:00:00Z",
            "created": f"{2015 + number % 4}-05-01T00:00:00Z" if number % 5 else None,
            "metadata": {"group": f"g{number // 4}"},
        }
        for number, start in enumerate(draw.randrange(len(lines)) for _ in range(120))
    ]


def write(path: Path, documents: list[dict]) -> str:
    data = "".join(json.dumps(document) + "\n" for document in documents).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return str(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory, documents) -> str:
    return write(tmp_path_factory.mktemp("source") / "documents.jsonl", documents)


def config(source: str | list[str], output: Path, **settings) -> TokenizeConfig:
    return TokenizeConfig(
        documents=[source] if isinstance(source, str) else source,
        output=str(output),
        **{
            "tokenizer": {"vocab_size": 600},
            "held_out": {"fraction": 0.2},
            "sequence_lengths": [32],
            "shards": 2,
            **settings,
        },
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory, source) -> Path:
    output = tmp_path_factory.mktemp("written") / "out"
    tokenize(config(source, output))
    return output


def checksums(dataset: dict) -> dict[str, str]:
    return {
        file["path"]: file["sha256"]
        for shard in dataset["shards"]
        for file in (shard["file"], *(f for packing in shard["packings"].values() for f in packing["files"]))
    }


def read(path: Path) -> dict:
    return json.loads((path / "dataset.json").read_text())


def test_counts_are_what_is_there(written, documents):
    dataset = read(written)
    tokenizer = Tokenizer.load(written / "tokenizer")
    assert dataset["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert dataset["tokenizer"]["vocab_size"] == tokenizer.vocab_size == 600
    total = 0
    for split, sources in dataset["counts"].items():
        for source, count in sources.items():
            found = list(read_documents(written, split, source))
            assert count == {
                "documents": len(found),
                "tokens": sum(len(ids) for _, _, ids in found),
                "bytes": sum(size for _, size, _ in found),
            }
            total += len(found)
    assert total == len(documents)
    listed = set(checksums(dataset))
    there = {str(path.relative_to(written)) for split in ("train", "held_out") for path in (written / split).iterdir()}
    assert listed == there
    assert not (written / ".staging").exists()


def test_years_are_shares_of_tokens(written, documents):
    by_id = {document["id"]: document for document in documents}
    described = read(written)["years"]
    for source, years in described.items():
        count: Counter[str] = Counter()
        for split in ("train", "held_out"):
            for id, _, ids in read_documents(written, split, source):
                count[(by_id[id]["created"] or by_id[id]["added"])[:4]] += len(ids)
        expected = {year: number / count.total() for year, number in count.items()}
        assert years == pytest.approx(expected, abs=1e-6) and len(years) == 5 and list(years) == sorted(years)
    assert set(described) == {"code", "web/en"}


@pytest.mark.parametrize("form", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_files_and_their_order_change_nothing(written, documents, tmp_path, form):
    """Other formats, other files, another order, documents twice: the shards are the same bytes."""
    mixed = documents + documents[:10]
    random.Random(1).shuffle(mixed)
    halves = [mixed[:40], mixed[40:]]
    for number, half in enumerate(halves):
        if form == ".parquet":
            rows = [{**document, "metadata": json.dumps(document["metadata"])} for document in half]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"part-{number}.parquet")
        else:
            write(tmp_path / f"part-{number}{form}", half)
    settings = {"tokenizer": {"path": str(written / "tokenizer")}}
    dataset = tokenize(config(f"{tmp_path}/part-*", tmp_path / "out", **settings))
    assert checksums(dataset) == checksums(read(written))
    assert sum(shard["duplicates"] for shard in dataset["shards"]) == 10


def test_the_trained_tokenizer_depends_on_the_documents_not_their_order(written, documents, tmp_path):
    shuffled = random.Random(2).sample(documents, len(documents))
    dataset = tokenize(config(write(tmp_path / "x.jsonl", shuffled), tmp_path / "out"))
    assert dataset["tokenizer"]["fingerprint"] == read(written)["tokenizer"]["fingerprint"]


def test_a_huggingface_tokenizer_gives_the_same_tokens(written, source, tmp_path):
    Tokenizer.load(written / "tokenizer").save_huggingface(tmp_path / "hf")
    settings = {"tokenizer": {"path": str(tmp_path / "hf" / "tokenizer.json")}}
    dataset = tokenize(config(source, tmp_path / "out", **settings))
    assert checksums(dataset) == checksums(read(written))
    assert dataset["tokenizer"]["fingerprint"] != read(written)["tokenizer"]["fingerprint"]


def test_again_does_nothing_and_says_so(written, source, caplog):
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    with caplog.at_level(logging.INFO, "maxllm.progress"):
        assert tokenize(config(source, written)) == read(written)
    assert "nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_another_config_needs_force(source, tmp_path):
    output = tmp_path / "out"
    tokenize(config(source, output))
    other = config(source, output, shards=1)
    with pytest.raises(UserError, match="--force"):
        tokenize(other)
    dataset = tokenize(other, force=True)
    assert {path.name for path in (output / "train").iterdir()} == {
        Path(name).name for name in checksums(dataset) if name.startswith("train/")
    }


def test_a_new_length_adds_its_packing_only(source, tmp_path):
    output = tmp_path / "out"
    before = checksums(tokenize(config(source, output)))
    stamps = {name: (output / name).stat().st_mtime_ns for name in before}
    dataset = tokenize(config(source, output, sequence_lengths=[32, 64]))
    after = checksums(dataset)
    assert dataset["sequence_lengths"] == [32, 64] and dataset == read(output)
    assert before.items() < after.items() and all(".64." in name for name in after.keys() - before.keys())
    assert {name: (output / name).stat().st_mtime_ns for name in before} == stamps
    both = tokenize(config(source, tmp_path / "both", sequence_lengths=[64, 32]))
    assert checksums(both) == after


def test_what_is_no_document_is_counted_and_shown(documents, tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [json.dumps(document) for document in documents[:20]]
    path.write_text("\n".join([*lines[:10], "{broken", '{"id": "1"}', *lines[10:], '{"id": "s", "text": "\\ud800"}']))
    dataset = tokenize(config(str(path), tmp_path / "out"))
    assert dataset["skipped"]["count"] == 2
    assert dataset["skipped"]["first"][0]["where"].endswith("x.jsonl:11")
    assert sum(shard["documents"] for shard in dataset["shards"]) == 21


def test_a_broken_end_of_a_file_loses_only_the_end(documents, tmp_path):
    path = tmp_path / "x.jsonl.gz"
    write(path, documents)
    path.write_bytes(path.read_bytes()[:-200])
    dataset = tokenize(config(str(path), tmp_path / "out"))
    assert dataset["skipped"]["count"] >= 1
    assert sum(shard["documents"] for shard in dataset["shards"]) > 60


def test_mistakes_are_sentences(source, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for settings in (
        {"documents": []},
        {"documents": [str(tmp_path / "nothing-*.jsonl")]},
        {"documents": [str(empty)]},
        {"documents": [source], "tokenizer": TokenizerConfig(path=str(tmp_path / "no.model"))},
    ):
        with pytest.raises(UserError):
            tokenize(config(source, tmp_path / "out").model_copy(update=settings))
        assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_vocabulary_without_room_is_refused_at_once():
    with pytest.raises(ValueError, match="vocab_size 100 leaves no room"):
        TokenizerConfig(vocab_size=100)


def test_the_sample_does_not_depend_on_how_the_work_was_divided():
    made = [Document(id=str(i), text=f"{i} " * (1 + i % 7), source="s", added="") for i in range(300)]
    sample = SmallestSample(TokenizerConfig(training_bytes=500))
    whole = sample.add_input(sample.create_accumulator(), list(made))
    parts = [sample.add_input(sample.create_accumulator(), made[i::7]) for i in range(7)]
    assert sample.extract_output(sample.merge_accumulators(parts[::-1])) == sample.extract_output(whole)
    assert 500 <= sum(map(len, sample.extract_output(whole))) < 530


def test_a_kill_leaves_nothing_half_written_and_the_next_run_finishes(written, source, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "maxllm.cli.main", "tokenize", "tokenize/default", f"documents=[{source}]"]
    command += [f"output={output}", "tokenizer.vocab_size=600", "held_out.fraction=0.2", "sequence_lengths=[32]"]
    command += ["shards=2"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(output.glob(".staging/*/shards-*/train")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert list(output.glob(".staging/*"))  # it was killed at work
    assert not (output / "dataset.json").exists() and not (output / "train").exists()
    dataset = tokenize(config(source, output))
    assert checksums(dataset) == checksums(read(written))
    assert not (output / ".staging").exists()


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.network)])
def test_worker_processes_change_nothing(written, source, tmp_path, train):
    settings = {} if train else {"tokenizer": {"path": str(written / "tokenizer")}}
    dataset = tokenize(config(source, tmp_path / "out", **settings), ["--direct_num_workers", "2"])
    assert checksums(dataset) == checksums(read(written))
