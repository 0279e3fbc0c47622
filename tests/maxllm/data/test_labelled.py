"""Files with labels as batches: what lies where, nothing lost, nothing cut but what is too long, clear refusals."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard

from maxllm.batch import texts_per_row
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.train import DataConfig
from maxllm.data.labelled import NO_LABEL, Labelled, LabelledRows, Text
from maxllm.data.loader import Loader
from maxllm.tokenizer import Tokenizer

WORDS = "the cat sat on a mat while def return import self for in range".split()
LENGTH = 32


@pytest.fixture(scope="module")
def tokenizer(tokens) -> Tokenizer:
    return Tokenizer.load(tokens / "tokenizer")


def labelled(tokenizer: Tokenizer, objective: str, **labels: object) -> Labelled:
    model = ModelConfig(
        architecture="encoder",
        positions="learned",
        tie_embeddings=True,
        vocab_size=1280,
        max_positions=64,
        encoder={"type_vocab_size": 2},
        labels=labels,
    )
    return Labelled(objective, model, tokenizer)


def written(path: Path, lines: list[dict]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def sentences(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 12))) for _ in range(count)]


def segments(rows: LabelledRows, reader: Labelled, length: int = LENGTH) -> list[tuple]:
    """(tokens, types, labels) of every segment of all rows."""
    from maxllm.batch import empty_batch

    batch = reader.prepared(empty_batch(len(rows), length))
    rows.fill(batch, range(len(rows)), range(len(rows)))
    found = []
    for row in range(len(rows)):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            at = batch.segment_ids[row] == segment
            assert (batch.positions[row, at] == np.arange(at.sum())).all() and batch.weights[row, at].all()
            found.append(tuple(x[row, at].tolist() for x in (batch.tokens, batch.types, batch.labels)))
        assert (batch.labels[row, batch.segment_ids[row] == 0] == NO_LABEL).all()
    return found


def test_every_text_lies_whole_in_one_row_with_its_label_at_its_first_token(tokenizer, tmp_path):
    reader = labelled(tokenizer, "classification", names=("no", "yes"))
    lines = [{"text": text, "label": "yes" if "cat" in text else "no"} for text in sentences(300)]
    (tmp_path / "data").mkdir()
    with gzip.open(tmp_path / "data" / "train.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    rows = reader.open(str(tmp_path / "data"), "train", LENGTH)
    want = []
    for line in lines:
        ids = tokenizer.encode(line["text"], bos=True, eos=True)
        want.append((ids, [0] * len(ids), [int(line["label"] == "yes")] + [NO_LABEL] * (len(ids) - 1)))
    assert all(len(ids) <= LENGTH for ids, _, _ in want)
    assert sorted(segments(rows, reader)) == sorted(want)
    assert len(rows) < 1.1 * sum(len(ids) for ids, _, _ in want) / LENGTH
    assert len(reader.open(str(tmp_path / "data"), "held_out", LENGTH)) == 0


def test_one_line_in_twenty_of_a_file_is_held_out_whatever_else_is_in_it(tokenizer, tmp_path):
    reader = labelled(tokenizer, "classification")
    lines = [{"text": f"{text} {number}", "label": number % 2} for number, text in enumerate(sentences(1000))]
    path = tmp_path / "mine.jsonl.zst"

    def read(lines: list[dict], split: str) -> list[tuple]:
        with zstandard.open(path, "wt") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        return sorted(segments(reader.open(str(path), split, LENGTH), reader))

    train, held = read(lines, "train"), read(lines, "held_out")
    assert len(train) + len(held) == 1000 and 25 < len(held) < 75
    fewer = read(lines[::-2], "held_out")
    assert set(map(str, fewer)) < set(map(str, held))


def test_a_pair_is_one_text_of_two_types_and_its_longer_part_is_cut(tokenizer, tmp_path):
    reader = labelled(tokenizer, "rerank", kind="rerank")
    short, long = "cat", " ".join(WORDS * 5)
    path = written(tmp_path / "train.jsonl", [{"query": short, "positive": long, "negative": "mat"}])
    (tokens, types, labels), (others, _, negative) = sorted(
        segments(reader.open(str(tmp_path), "train", LENGTH), reader), key=lambda each: -len(each[0])
    )
    query, passage = tokenizer.encode(short), tokenizer.encode(long)
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    room = LENGTH - 3 - len(query)
    assert tokens == [begin, *query, end, *passage[:room], end]
    assert types == [0] * (len(query) + 2) + [1] * (room + 1)
    assert labels == [1] + [NO_LABEL] * (LENGTH - 1)
    assert others == [begin, *query, end, *tokenizer.encode("mat"), end]
    assert negative[0] == 0
    assert path.endswith("train.jsonl")


def test_a_words_label_stands_at_its_first_token(tokenizer, tmp_path):
    reader = labelled(tokenizer, "classification", kind="token", names=("O", "ANIMAL"))
    words, labels = ["the", "cat", "unspellable", "sat"], ["O", "ANIMAL", None, "O"]
    written(tmp_path / "train.jsonl", [{"words": words, "labels": labels}])
    ((tokens, _, found),) = segments(reader.open(str(tmp_path), "train", LENGTH), reader)
    assert tokens == tokenizer.encode(" ".join(words), bos=True, eos=True)
    encoded = tokenizer.encode_words(words)
    firsts = np.cumsum([1, *map(len, encoded)])[:-1]
    want = np.full(len(tokens), NO_LABEL)
    want[firsts] = [0, 1, NO_LABEL, 0]
    assert found == want.tolist()


@pytest.mark.parametrize("length", [16, 100, 200, 512])
def test_pairs_lie_side_by_side_and_no_more_than_are_compared(tokenizer, tmp_path, length):
    reader = labelled(tokenizer, "contrastive", kind="embedding", pooling="mean", hidden="none")
    lines = [{"query": a, "positive": b} for a, b in zip(sentences(200), sentences(200, 1), strict=True)]
    written(tmp_path / "train.jsonl", lines)
    rows = reader.open(str(tmp_path), "train", length)
    found = [tokens for tokens, _, _ in segments(rows, reader, length)]
    pairs = {(tuple(a), tuple(b)) for a, b in zip(found[::2], found[1::2], strict=True)}

    def framed(text: str) -> tuple[int, ...]:
        ids = tokenizer.encode(text)[: length // 2 - 2]
        return (tokenizer.bos_id, *ids, tokenizer.eos_id)

    assert pairs == {(framed(line["query"]), framed(line["positive"])) for line in lines}
    assert max(len(rows._row(row)) for row in range(len(rows))) <= texts_per_row(length)


def test_hosts_share_a_batch_and_every_text_comes_once_an_epoch(tokenizer, tmp_path):
    reader = labelled(tokenizer, "classification")
    written(tmp_path / "train.jsonl", [{"text": text, "label": 0} for text in sentences(157)])
    config = DataConfig(sources={"mine": {"path": str(tmp_path)}}, sequence_length=LENGTH, batch_size=4, seed=3)

    def loader(**hosts: int) -> Loader:
        return Loader(config, tokenizer_fingerprint=tokenizer.fingerprint, labelled=reader, **hosts)

    whole = loader().batch(5)
    parts = [loader(host_index=host, host_count=2).batch(5) for host in (0, 1)]
    for name in ("tokens", "labels", "types", "segment_ids"):
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    rows = len(reader.open(str(tmp_path), "train", LENGTH))
    epoch = [row for k in range(-(-rows // 4)) for row in loader().batch(k).tokens.tolist()][:rows]
    assert len({str(row) for row in epoch}) == rows
    assert loader().document_ids(0)[0].startswith(f"{tmp_path.name}, line ")


REFUSED = {
    "not an object": ("classification", {}, "3", "not a JSON object"),
    "no text": ("classification", {}, {"words": "a", "label": 0}, 'no text in "text"'),
    "unknown label": (
        "classification",
        {"names": ("no", "yes")},
        {"text": "a", "label": "maybe"},
        "'maybe' is none of",
    ),
    "number beyond": ("classification", {"count": 3}, {"text": "a", "label": 3}, "numbers from 0 to 2"),
    "uneven": ("classification", {"kind": "token"}, {"words": ["a"], "labels": [0, 1]}, "lists of one length"),
    "no passage": ("contrastive", {"kind": "embedding"}, {"query": "a"}, 'no text in "positive"'),
    "graded": ("rerank", {"kind": "rerank"}, {"query": "a", "text": "b", "label": 2}, "neither 0 nor 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_of_another_kind_is_refused_by_its_number(tokenizer, tmp_path, case):
    objective, labels, line, why = REFUSED[case]
    good = {"text": "a", "label": 0} if objective == "classification" and not labels.get("kind") else None
    file = tmp_path / "train.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    good_line = json.dumps(good | ({"label": "no"} if labels.get("names") else {})) + "\n" if good else "\n"
    file.write_text(good_line + text + "\n")
    with pytest.raises(UserError, match=why) as error:
        labelled(tokenizer, objective, **labels).open(str(tmp_path), "train", LENGTH)
    assert f"{file}:2" in str(error.value)


def test_a_truncated_file_is_refused(tokenizer, tmp_path):
    data = gzip.compress(("\n".join(json.dumps({"text": t, "label": 0}) for t in sentences(500))).encode())
    (tmp_path / "train.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be read to its end"):
        labelled(tokenizer, "classification").open(str(tmp_path), "train", LENGTH)


def test_an_absent_file_is_named_with_its_setting(tokenizer, tmp_path):
    config = DataConfig(sources={"mine": {"path": str(tmp_path / "no.jsonl")}}, sequence_length=LENGTH)
    with pytest.raises(UserError, match=r"data.sources.mine.path: no JSON lines with labels"):
        Loader(config, tokenizer_fingerprint="", labelled=labelled(tokenizer, "classification"))


def test_rows_of_nothing_are_none():
    assert len(LabelledRows("none", [], LENGTH)) == 0
    assert len(LabelledRows("one", [Text(*(np.zeros(3, np.int32),) * 3, 1)], LENGTH)) == 1
