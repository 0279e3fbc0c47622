from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from data_beam.token_format import unpack_record
from maxllm.batch import empty_batch
from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig
from maxllm.data.dataset import Dataset, read_documents
from maxllm.data.loader import Loader
from maxllm.data.packing import PackedSource
from maxllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def fingerprint(tokens) -> str:
    return Tokenizer.load(tokens / "tokenizer").fingerprint


@pytest.fixture()
def config(tokens) -> DataConfig:
    path = str(tokens)
    return DataConfig(
        sources={
            "code": {"path": path, "source": "code", "weight": 0.6},
            "docs": {"path": path, "source": "docs", "weight": 0.3},
            "snippets": {"path": path, "source": "snippets", "weight": 0.1},
        },
        sequence_length=32,
        batch_size=8,
        seed=1,
    )


def same(a, b) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None or y is not None]
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def joined(parts) -> list[np.ndarray | None]:
    return [None if fields[0] is None else np.concatenate(fields) for fields in zip(*parts, strict=True)]


def slow_row(records: list[bytes], pieces: np.ndarray, length: int) -> dict[str, list]:
    """A packed row, one pair at a time."""
    row: dict[str, list] = {"tokens": [], "targets": [], "segment_ids": [], "positions": [], "weights": []}
    for segment, (record, start, size) in enumerate(pieces.tolist(), 1):
        tokens = unpack_record(records[record]).tokens.tolist()
        for position in range(size):
            row["tokens"].append(tokens[start + position])
            row["targets"].append(tokens[start + position + 1])
            row["segment_ids"].append(segment)
            row["positions"].append(position)
            row["weights"].append(1.0)
    return {name: values + [0] * (length - len(values)) for name, values in row.items()}


@pytest.mark.parametrize("length", [32, 128])
def test_rows_are_the_slow_rows(tokens, length):
    dataset = Dataset(tokens)
    (entry, *_) = dataset.shards("train", "snippets")
    shard, packing = dataset.open(entry), dataset.packing(entry, length)
    records = shard.read(list(range(len(shard))))
    source = PackedSource(dataset, [entry], length)
    for index in range(len(source)):
        batch = empty_batch(1, length)
        source.fill(batch, [0], [index])
        slow = slow_row(records, packing.pieces[int(packing.rows[index]) : int(packing.rows[index + 1])], length)
        for name, values in slow.items():
            assert getattr(batch, name)[0].tolist() == values
        assert source.document_ids(index) == [
            unpack_record(records[record]).document_id
            for record in packing.pieces["record"][int(packing.rows[index]) : int(packing.rows[index + 1])]
        ]


@pytest.mark.parametrize("length", [32, 128])
def test_an_epoch_holds_every_next_token_once(tokens, length):
    """Also of the document that is longer than a record, and across every cut."""
    dataset = Dataset(tokens)
    for name in dataset.sources("train"):
        source = PackedSource(dataset, dataset.shards("train", name), length)
        batch = empty_batch(len(source), length)
        source.fill(batch, range(len(source)), range(len(source)))
        real = batch.segment_ids > 0
        packed = Counter(zip(batch.tokens[real].tolist(), batch.targets[real].tolist(), strict=True))
        whole: Counter = Counter()
        for _, _, ids in read_documents(tokens, "train", name):
            whole.update(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
        assert packed == whole
        assert np.array_equal(batch.weights, real.astype(np.float32))
        # Rows of padding: the last of each of the two shards, and less than one more for pieces without a partner.
        assert (1 - real.mean()) * len(source) < 3


def test_the_documents_are_the_texts(tokens, documents_file):
    import json

    tokenizer = Tokenizer.load(tokens / "tokenizer")
    texts = {d["id"]: d["text"] for d in map(json.loads, documents_file.read_text().splitlines())}
    found = {}
    for split in ("train", "held_out"):
        for name, size, ids in read_documents(tokens, split):
            assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
            assert size == len(texts[name].encode())
            found[name] = tokenizer.decode(ids.tolist())
    assert found == texts
    assert max(len(ids) for _, _, ids in read_documents(tokens, "train", "docs")) > 1 << 16


def test_a_group_is_in_one_split_whatever_its_source(tokens, documents_file):
    import json

    groups = {d["id"]: d["metadata"]["group"] for d in map(json.loads, documents_file.read_text().splitlines())}
    held_out = {groups[name] for name, _, _ in read_documents(tokens, "held_out")}
    train = {groups[name] for name, _, _ in read_documents(tokens, "train")}
    assert held_out and train and not held_out & train


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_make_the_batch_of_one(config, fingerprint, hosts):
    one = Loader(config, tokenizer_fingerprint=fingerprint)
    parts = [Loader(config, tokenizer_fingerprint=fingerprint, host_index=i, host_count=hosts) for i in range(hosts)]
    for k in (0, 1, 17, one.steps_per_epoch * 3 + 1):
        assert same(one.batch(k), joined(part.batch(k) for part in parts))
        assert all(part.document_ids(k) == one.document_ids(k) for part in parts)


def test_a_batch_is_a_function_of_its_number(config, fingerprint):
    loader = Loader(config, tokenizer_fingerprint=fingerprint)
    forward = [loader.batch(k) for k in range(6)]
    fresh = Loader(config, tokenizer_fingerprint=fingerprint)
    assert all(same(forward[k], fresh.batch(k)) for k in (5, 0, 3))
    assert not same(forward[0], forward[1])
    other = Loader(config.model_copy(update={"seed": 2}), tokenizer_fingerprint=fingerprint)
    assert not same(forward[0], other.batch(0))


def test_going_on_from_any_step_gives_the_same_batches(config, fingerprint):
    loader = Loader(config, tokenizer_fingerprint=fingerprint)
    for start in (0, 9):
        for k, batch in zip(range(start, start + 5), loader.iterate(start), strict=False):
            assert same(batch, loader.batch(k))


def test_worker_processes_change_nothing(config, fingerprint):
    loader = Loader(config.model_copy(update={"workers": 2}), tokenizer_fingerprint=fingerprint)
    for k, batch in enumerate(itertools.islice(loader.iterate(3), 5), 3):
        assert same(batch, loader.batch(k))


def test_the_mixture_is_kept(config, fingerprint, tokens):
    loader = Loader(config, tokenizer_fingerprint=fingerprint)
    names = {name: "snippets" for name, _, _ in read_documents(tokens, "train", "snippets")}
    rows = 0
    for k in range(25):
        rows += sum(
            all(name in names for name in loader._sources[source].document_ids(int(row)))
            for source, row, _ in zip(*loader._locate(k, np.arange(8)), strict=True)
        )
    assert rows == 25 * 8 // 10


def test_one_dataset_without_a_source_is_all_of_its_sources(tokens, fingerprint):
    config = DataConfig(sources={"all": {"path": str(tokens)}}, sequence_length=32, batch_size=4)
    loader = Loader(config, tokenizer_fingerprint=fingerprint)
    total = sum(shard["packings"]["32"]["rows"] for shard in Dataset(tokens).shards("train"))
    assert loader.steps_per_epoch == total // 4
    held_out = Loader(config, tokenizer_fingerprint=fingerprint, split="held_out")
    assert not same(held_out.batch(0), loader.batch(0))


def test_tokens_of_another_tokenizer_are_refused(config):
    with pytest.raises(UserError, match="tokenizer .* the model's is"):
        Loader(config, tokenizer_fingerprint="0" * 64)


def test_a_length_that_is_not_packed_says_which_command_packs_it(config, fingerprint):
    with pytest.raises(UserError, match=r"sequence_lengths=\[32, 64, 128\]"):
        Loader(config.model_copy(update={"sequence_length": 64}), tokenizer_fingerprint=fingerprint)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("suffix", [".array_record", ".32.pieces.npy"])
def test_a_damaged_file_is_named(tokens, fingerprint, tmp_path, damage, suffix):
    copy = tmp_path / "copy"
    shutil.copytree(tokens, copy)
    victim = sorted((copy / "train").glob(f"code-*{suffix}"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data[:-100] if damage == "truncate" else data)
    config = DataConfig(sources={"x": {"path": str(copy)}}, sequence_length=32)
    with pytest.raises(UserError, match=victim.name):
        Loader(config, tokenizer_fingerprint=fingerprint)


def test_damage_above_the_verified_size_is_found_when_read(tokens, fingerprint, tmp_path, monkeypatch):
    monkeypatch.setattr("maxllm.data.dataset.VERIFIED_BYTES", 0)
    copy = tmp_path / "copy"
    shutil.copytree(tokens, copy)
    for victim in (copy / "train").glob("*.array_record"):
        data = bytearray(victim.read_bytes())
        data[40_000:] = bytes(byte ^ 1 for byte in data[40_000:])
        victim.write_bytes(data)
    config = DataConfig(sources={"x": {"path": str(copy)}}, sequence_length=32)
    with pytest.raises(UserError, match="array_record is damaged"):
        loader = Loader(config, tokenizer_fingerprint=fingerprint)
        for k in range(loader.steps_per_epoch):
            loader.batch(k)


def test_what_is_not_a_data_set_is_a_sentence(tmp_path, fingerprint, config):
    for sources in ({}, {"x": {"path": str(tmp_path)}}):
        with pytest.raises(UserError):
            Loader(DataConfig(sources=sources, sequence_length=32), tokenizer_fingerprint=fingerprint)
    with pytest.raises(UserError, match="divisible"):
        Loader(config, tokenizer_fingerprint=fingerprint, host_count=3)


def test_reading_tokens_needs_neither_beam_nor_jax():
    code = (
        "import sys; import maxllm.data.loader, maxllm.tokenizer; "
        "sys.exit(' '.join({'apache_beam', 'jax', 'grain'} & sys.modules.keys()) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
