"""Arbitrary bytes into every reader, arbitrary texts and metadata into every stage: an outcome, never an exception."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_beam.curation import stages_after_extraction, stages_before_extraction
from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io import clean, source, warc
from data_beam.io.documents import read_documents
from data_beam.io.encoding import NoEncoding, decode
from data_beam.io.files import BrokenFile, chunks, lines
from data_beam.parts import to_line, to_record
from maxllm.config.curate import CurateConfig, InputConfig

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ODD = st.sampled_from(
    list("\0\ufeff\u200b\u202e\u2066\u0130\ud800\u2028\x85\r\n\t .#{}<>&%@/\\'\"-—…🙂e\u0301汉字שלום0١")
)
TEXT = st.one_of(
    st.text(max_size=300), st.text(ODD, max_size=300), st.text(ODD, max_size=3).map(lambda text: text * 500)
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
KEYS = st.sampled_from(
    "id text source added created metadata url path language language_confidence group content_type date signals "
    "programming_language license timestamp".split()
)
RECORDS = st.dictionaries(KEYS | st.text(max_size=5), VALUES, max_size=6)


def outcomes(format: str, path) -> list[source.Read]:
    config = InputConfig(format=format, paths=[str(path)], max_bytes=5000)
    return [item for work in source.format_module(config).list_work(config) for item in source.read(config, work)]


def check_written(items: list[source.Read]) -> None:
    """Everything downstream takes them: coders pickle, writers write UTF-8, readers read the same again."""
    for item in items:
        assert isinstance(item, Document | Rejected | DeadLetter)
        assert pickle.loads(pickle.dumps(item)) == item
        line = to_line(to_record(item))
        json.loads(line.decode("utf-8"), parse_constant=lambda name: pytest.fail(name))


@FEW
@given(st.binary(max_size=400), st.sampled_from(["jsonl", "parquet", "warc", "html"]), st.booleans())
def test_any_bytes_are_some_outcome(tmp_path, data, format, packed):
    path = tmp_path / ("a.html.gz" if packed else "a.html")
    path.write_bytes(gzip.compress(data) if packed else data)
    check_written(outcomes(format, path))
    path.unlink()


@FEW
@given(st.lists(RECORDS, max_size=5), st.booleans())
def test_any_json_record_is_one_outcome_that_reads_back(tmp_path, records, own):
    path = tmp_path / "a.jsonl"
    if own:
        records = [{"text": "x", **record} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    items = outcomes("jsonl", path)
    assert len(items) == len(records)
    check_written(items)
    documents = [item for item in items if isinstance(item, Document)]
    path.write_bytes(b"".join(to_line(to_record(item)) for item in documents))
    assert list(read_documents(str(path))) == documents
    for item in documents:
        assert item.created is None or re.match(r"\d{4}", item.created)


@FEW
@given(st.lists(RECORDS, max_size=4), st.data())
def test_any_curated_file_is_read_or_refused_record_by_record(tmp_path, records, data):
    content = bytearray("".join(json.dumps(record) + "\n" for record in records).encode())
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.jsonl").write_bytes(bytes(content))
    assert all(isinstance(item, Document | DeadLetter) for item in read_documents(str(tmp_path / "a.jsonl")))


@FEW
@given(st.data())
def test_a_damaged_file_never_gives_a_record_that_was_not_there(tmp_path, data):
    whole = [{"text": f"document {n} " + "abcdefgh"[n % 8] * 40, "n": n} for n in range(30)]
    packed = bytearray(gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in whole)))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.jsonl.gz").write_bytes(bytes(packed))
    try:
        got = b"".join(chunks(str(tmp_path / "a.jsonl.gz")))
    except BrokenFile:
        return
    assert got == gzip.decompress(bytes(packed))  # only ever what Python's own reader takes too


@FEW
@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 40))
def test_lines_are_those_of_split(parts, limit):
    expected = b"".join(parts).split(b"\n")
    got = list(lines(parts, limit))
    assert [line if isinstance(line, int) else len(line) for line in got if line] == [len(x) for x in expected if x]
    assert [line for line in got if isinstance(line, bytes) and line] == [x for x in expected if x and len(x) <= limit]


@FEW
@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12), st.sampled_from(["zlib", "utf-7", "cp037"])))
def test_bytes_decode_or_are_said_not_to(data, declared):
    try:
        assert isinstance(decode(data, declared), str)
    except NoEncoding:
        pass


WARC_BITS = st.sampled_from(
    [b"WARC/1.0\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"0", b"7", b"-1", b"99999999999999999999", b"\n"]
    + [b"WARC-Type: response\r\n", b"WARC-Type: conversion\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1", b"\0", b"x" * 50]
    + [b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"-6\r\n"]
    + [gzip.compress(b"WARC/1.0\r\nContent-Length: 1\r\n\r\nx"), b"\x1f\x8b\x08", b"WARC-Target-URI: http://[\r\n"]
)


@FEW
@given(st.lists(WARC_BITS, max_size=25))
def test_any_warc_ends_and_any_response_is_read_or_refused(tmp_path, bits):
    data = b"".join(bits)
    assert sum(1 for _ in warc.records(io.BytesIO(data), 1000)) <= len(data) + 1
    (tmp_path / "a.warc").write_bytes(data)
    check_written(outcomes("warc", tmp_path / "a.warc"))
    try:
        status, fields, body = warc.http_response(data, 1000)
        assert isinstance(status, int)
    except (BrokenFile, Exception) as error:
        assert isinstance(error, BrokenFile | ValueError | warc.zlib.error)


@given(VALUES)
def test_cleaning_gives_json_that_utf8_can_hold_and_changes_it_once(value):
    cleaned = clean.plain(value)
    json.dumps(cleaned, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert clean.plain(cleaned) == cleaned


# Every stage that decides by one document and needs no model from elsewhere: what switches it on. FOLDER is a folder
# with lists of words, w.txt, and domains, d.txt, and
# evaluation items, items.jsonl.
STAGES: dict[str, dict[str, Any]] = {
    "url": {"url": {"word_files": ["FOLDER/w.txt"], "domain_files": ["FOLDER/d.txt"]}},
    "pii": {"pii": {"enabled": True, "max_count": 3}},
    "language": {"language": {"min_confidence": 0.2}},
    "quality": {},
    "code": {"code": {"enabled": True}},
    "toxicity": {"toxicity": {"enabled": True, "words": {"files": {"any": "FOLDER/w.txt"}}}},
    "decontamination": {"decontamination": {"paths": ["FOLDER/items.jsonl"], "min_words": 2, "mode": "any"}},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "w.txt").write_text("tide\nout\n")
    (folder / "d.txt").write_text("harbour.org\n")
    (folder / "items.jsonl").write_text(json.dumps({"text": "the tide is out"}) + "\n")
    made: dict[str, list[Any]] = {}
    for name, tree in STAGES.items():
        off = {"language": {"enabled": False}, "code": {"enabled": False}}
        tree = json.loads(json.dumps({**off, **tree}).replace("FOLDER", str(folder)))
        config = CurateConfig.model_validate(tree)
        found = stages_before_extraction(config) if name == "url" else stages_after_extraction(config)
        made[name] = [stage for stage in found if name == "quality" or stage.name != "quality"]
        assert made[name], name
    return made


PROSE = st.lists(
    st.sampled_from("the tide is out and harbour.org a@b.co 4111 1111 192.168.0.1 def x(): {\n".split(" "))
)
METADATA = st.dictionaries(KEYS, VALUES | st.sampled_from(["en", "python", "code", "text", "http://harbour.org/tide"]))


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT | PROSE.map(" ".join), metadata=METADATA, code=st.sampled_from(["text", "code"]))
@example(text="", metadata={"signals": None}, code="text")
def test_any_document_is_kept_or_dropped(stages, name, text, metadata, code):
    """With whatever text and metadata a reader can hand on: it never raises, and what comes can be written."""
    metadata = clean.typed({"content_type": code, **clean.plain(metadata)})
    document = Document("id", clean.text(text), "web", "2024-01-01T00:00:00Z", None, metadata)
    for stage in stages[name]:
        short = stage(document)
        assert isinstance(short, Document | Drop | Rejected)
        to_line(to_record(Rejected(document, short) if isinstance(short, Drop) else short))
        if hasattr(stage, "measure"):
            long = stage.decide(stage.measure(document))
            assert type(long) is type(short)
            if isinstance(short, Drop):
                assert long == short
        if isinstance(short, Document):
            document = short
