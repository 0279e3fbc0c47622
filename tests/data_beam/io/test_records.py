"""Readers give every record a document, a reason or a dead letter, whatever state the file is in."""

from __future__ import annotations

import gzip
import json
import os
import random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.io import source
from data_beam.io.encoding import NoEncoding, decode
from data_beam.io.files import lines, matching
from data_beam.parts import to_line, to_record
from maxllm.config.curate import InputConfig
from maxllm.config.errors import UserError

TEXTS = [f"document {number} about the sea — größer" for number in range(200)]


def read_all(**settings) -> list[source.Read]:
    config = InputConfig(**settings)
    works = list(source.format_module(config).list_work(config))
    return [item for work in works for item in source.read(config, work)]


def texts(items: list[source.Read]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def jsonl(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def incompressible(count: int = 400) -> list[str]:
    generator = random.Random(0)
    return [f"{number} " + "".join(generator.choices("abcdefghij klmnop", k=2000)) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.ZstdCompressor().compress)],
)
def test_json_lines_plain_gz_zst(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(jsonl([{"text": text, "n": n} for n, text in enumerate(TEXTS)])))
    items = read_all(format="jsonl", paths=[str(tmp_path / "*.jsonl*")], name="sea")
    assert texts(items) == TEXTS
    assert {item.source for item in items} == {"sea"} and items[7].metadata["n"] == 7
    assert len({item.id for item in items}) == len(TEXTS)
    assert [item.id for item in items] == [
        item.id for item in read_all(format="jsonl", paths=[str(tmp_path)], name="sea")
    ]


def test_several_gzip_members_and_zstd_frames_are_one_file(tmp_path):
    parts = [jsonl([{"text": text}]) for text in TEXTS[:5]]
    (tmp_path / "a.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    (tmp_path / "b.zst").write_bytes(b"".join(zstandard.ZstdCompressor().compress(part) for part in parts))
    assert texts(read_all(format="jsonl", paths=[str(tmp_path)])) == TEXTS[:5] * 2


@pytest.mark.parametrize(("name", "pack"), [("a.gz", gzip.compress), ("a.zst", zstandard.ZstdCompressor().compress)])
def test_a_truncated_file_gives_what_it_has_and_one_dead_letter(tmp_path, name, pack):
    whole = incompressible()
    data = pack(jsonl([{"text": text} for text in whole]))
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    items = read_all(format="jsonl", paths=[str(tmp_path / name)])
    good, bad = texts(items), [item for item in items if isinstance(item, DeadLetter)]
    assert len(good) > len(whole) // 3 and good == whole[: len(good)]
    assert "truncated" in bad[-1].error and name in bad[-1].where
    assert len(bad) <= 1 + 1  # the cut line is no JSON, perhaps


def test_garbage_inside_a_gzip_is_one_dead_letter(tmp_path):
    data = bytearray(gzip.compress(jsonl([{"text": text} for text in incompressible()])))
    data[len(data) // 2 : len(data) // 2 + 100] = os.urandom(100)
    (tmp_path / "a.gz").write_bytes(data)
    items = read_all(format="jsonl", paths=[str(tmp_path / "a.gz")])
    assert texts(items) and sum("broken" in item.error for item in items if isinstance(item, DeadLetter)) == 1


def test_lines_that_are_no_documents_are_dead_letters_with_their_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\nnot json\n\n[1]\n{"body": "x"}\n{"text": 3}\n{"text": "\xff\xfe"}\n{"text": "last"}'
    )
    items = read_all(format="jsonl", paths=[str(path)])
    assert texts(items) == ["good", "last"]
    assert [item.where for item in items if isinstance(item, DeadLetter)] == [f"{path}:{n}" for n in (2, 4, 5, 6, 7)]


def test_a_record_of_our_own_comes_back_as_it_went(tmp_path):
    document = Document("abc", "text", "web", "2024-01-01T00:00:00Z", "2020-01-01T00:00:00Z", {"url": "http://a.org/x"})
    (tmp_path / "a.jsonl").write_bytes(to_line(to_record(document)))
    (again,) = read_all(format="jsonl", paths=[str(tmp_path / "a.jsonl")])
    assert (again.text, again.source, again.added, again.created) == ("text", "web", document.added, document.created)
    assert again.metadata["original_id"] == "abc" and again.metadata["group"] == "a.org"


def test_times_are_text_that_sorts(tmp_path):
    times = ["2020-01-01T00:00:00Z", 1577836800, 1577836800.0, None, "", {"year": 2020}]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "x", "created": time} for time in times]))
    items = read_all(format="jsonl", paths=[str(tmp_path / "a.jsonl")])
    assert [item.created for item in items] == ["2020-01-01T00:00:00Z"] * 3 + [None] * 3
    assert len({item.age_key for item in items}) == 6 and sorted(item.age_key for item in items)


def test_an_overlong_line_is_dropped_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "' + b"x" * 3_000_000 + b'"}\n{"text": "b"}\n')
    items = read_all(format="jsonl", paths=[str(path)], max_bytes=1_000_000)
    assert texts(items) == ["a", "b"]
    (rejected,) = [item for item in items if isinstance(item, Rejected)]
    assert rejected.drop.reason == "read.max_bytes" and rejected.drop.value > 3_000_000


def test_lines_are_the_same_however_the_stream_is_cut():
    data = b"one\ntwo\n\nthree and a half\n" + b"y" * 50 + b"\nlast"
    expected = list(lines([data], 30))
    assert expected == [b"one", b"two", b"", b"three and a half", 50, b"last"]
    for size in range(1, 20):
        assert list(lines([data[at : at + size] for at in range(0, len(data), size)], 30)) == expected


def test_a_limit_is_the_same_sample_every_time(tmp_path):
    for part in range(4):
        (tmp_path / f"{part}.jsonl").write_bytes(jsonl([{"text": f"{part} {n}"} for n in range(10)]))
    items = texts(read_all(format="jsonl", paths=[str(tmp_path / "*.jsonl")], limit=14))
    assert items == [f"0 {n}" for n in range(10)] + [f"1 {n}" for n in range(4)]


def test_parquet_rows_and_a_broken_file(tmp_path):
    table = pyarrow.table({"body": TEXTS, "url": [f"https://www.site{n % 3}.org/{n}" for n in range(len(TEXTS))]})
    pyarrow.parquet.write_table(table, tmp_path / "good.parquet", row_group_size=50)
    data = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "short.parquet").write_bytes(data[: len(data) // 2])
    items = read_all(format="parquet", paths=[str(tmp_path / "*.parquet")], text_key="body")
    assert texts(items) == TEXTS
    assert items[4].metadata["url"] == "https://www.site1.org/4" and items[4].metadata["group"] == "site1.org"
    (dead,) = [item for item in items if isinstance(item, DeadLetter)]
    assert dead.where.endswith("short.parquet")


def test_tfds_is_read_without_tensorflow(tmp_path):
    import numpy as np
    import tensorflow_datasets as tfds

    class Sea(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # it has no folder of its own
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "depth": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, downloads):
            return {"train": ((n, {"text": text, "depth": n}) for n, text in enumerate(TEXTS))}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Sea(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    items = read_all(format="tfds", paths=[str(builder.data_path)], limit=150)
    assert len(items) == 150 and set(texts(items)) <= set(TEXTS)
    assert all(TEXTS[item.metadata["depth"]] == item.text for item in items)
    with pytest.raises(UserError, match="array_record"):
        read_all(format="tfds", paths=[str(builder.data_path)], split="nowhere")


def test_decode_tries_what_is_declared_then_utf8_then_a_detector():
    assert decode("größer".encode()) == "größer"
    assert decode("größer".encode("latin-1"), "iso-8859-1") == "größer"
    assert decode(b'<meta charset="koi8-r">' + "привет".encode("koi8-r")).endswith("привет")
    assert decode("hallo".encode("utf-16")) == "hallo"
    russian = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
    assert decode(russian.encode("windows-1251")) == russian
    with pytest.raises(NoEncoding):
        decode(os.urandom(5000))


def test_matching_takes_folders_globs_and_paths_and_names_what_is_missing(tmp_path):
    for name in ("a/1.html", "a/b/2.html", "c.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    root = str(tmp_path)
    assert [file.path.removeprefix(root) for file in matching([root])] == ["/a/1.html", "/a/b/2.html", "/c.html"]
    assert [file.path.removeprefix(root) for file in matching([f"{root}/*.html", f"{root}/c.html"])] == ["/c.html"]
    with pytest.raises(UserError, match="nothing matches"):
        matching([f"{root}/nowhere/*.html"])
