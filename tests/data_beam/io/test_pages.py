"""Pages: WARC files in any state, folders of HTML, and this Python's own documentation and source."""

from __future__ import annotations

import gzip
import io
import zlib

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.io import python_docs, python_source, source, warc
from data_beam.io.source import Work
from maxllm.config.curate import InputConfig

PAGE = "<html><body><p>page {n}: the tide is out — größer</p>" + "<p>filler</p>" * 50 + "</body></html>"


def response(
    n: int, *, body: bytes | None = None, head: str = "", status: str = "200 OK", kind="text/html; charset=utf-8"
):
    body = PAGE.replace("{n}", str(n)).encode() if body is None else body
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{head}\r\n".encode() + body


def record(n: int, payload: bytes, kind: str = "response") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{n:032x}>\r\n"
        f"WARC-Date: 2020-01-0{n % 9 + 1}T00:00:00Z\r\n"
        f"WARC-Target-URI: https://www.site{n % 3}.org/{n}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload + b"\r\n\r\n"


def read_file(path, **settings) -> list[source.Read]:
    config = InputConfig(format="warc", paths=[str(path)], **settings)
    return list(source.read(config, Work((str(path),), added="2024-01-01T00:00:00Z")))


def numbers(items) -> list[int]:
    return [int(item.metadata["url"].rsplit("/", 1)[1]) for item in items if isinstance(item, Document)]


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
def test_warc_equals_fastwarc(tmp_path, pack):
    records = [record(0, b"software: a test\r\n", "warcinfo")]
    for n in range(20):
        records += [record(n, b"GET / HTTP/1.1\r\n\r\n", "request"), record(n, response(n))]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(map(pack, records)))
    peer = [
        (rec.headers["WARC-Target-URI"], rec.reader.read().decode())
        for rec in ArchiveIterator(io.BytesIO(path.read_bytes()), record_types=WarcRecordType.response)
    ]
    items = read_file(path)
    assert [(item.metadata["url"], item.text) for item in items] == peer and len(peer) == 20
    assert items[1].metadata["group"] == "site1.org" and items[1].created == "2020-01-02T00:00:00Z"


def test_a_truncated_record_costs_itself(tmp_path):
    data = b"".join(gzip.compress(record(n, response(n))) for n in range(5))
    last = len(gzip.compress(record(4, response(4))))
    for cut in (1, last // 2, last - 5):
        path = tmp_path / f"{cut}.warc.gz"
        path.write_bytes(data[:-cut])
        items = read_file(path)
        assert numbers(items) == [0, 1, 2, 3]
        assert isinstance(items[-1], DeadLetter) and "truncated" in items[-1].error


def test_reading_goes_on_after_a_broken_member(tmp_path):
    members = [bytearray(gzip.compress(record(n, response(n)))) for n in range(6)]
    members[2][30:60] = b"\0" * 30  # damaged inside
    members[4] = members[4][: len(members[4]) // 2]  # cut short, another follows
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members))
    items = read_file(path)
    assert numbers(items) == [0, 1, 3, 5]
    assert any(isinstance(item, DeadLetter) for item in items)


def test_a_plain_warc_goes_on_after_garbage_and_reports_its_cut_end(tmp_path):
    data = record(0, response(0)) + b"garbage\r\n\r\n" + record(1, response(1)) + record(2, response(2))[:-300]
    path = tmp_path / "a.warc"
    path.write_bytes(data)
    items = read_file(path)
    assert numbers(items) == [0, 1]
    errors = [item.error for item in items if isinstance(item, DeadLetter)]
    assert len(errors) == 2 and "truncated" in errors[1]


BROKEN = {"clipped.warc.gz", "example-trunc.warc", "example-wrong-chunks.warc.gz", "example.arc.gz"}


def test_real_files_equal_fastwarc_and_the_broken_ones_say_so(shared_data):
    compared = 0
    for path in sorted((shared_data / "web" / "warc").glob("*/*warc*")):
        data = path.read_bytes()
        if path.suffix == ".lz4" or path.name.endswith(".paths.gz"):
            continue
        ours = list(warc.records(io.BytesIO(data), 1 << 26))
        if path.name in BROKEN:
            assert any(isinstance(item, str) for item in ours), path.name
            continue
        peer = [rec.reader.read() for rec in ArchiveIterator(io.BytesIO(data), parse_http=False)]
        assert [item.body for item in ours] == peer, path.name
        compared += len(peer)
    assert compared > 150


def test_wet_files_are_text(tmp_path):
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a.org/\r\nContent-Type: text/plain\r\n"
    text = "plain größer text"
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(gzip.compress(f"{head}Content-Length: {len(text.encode())}\r\n\r\n{text}\r\n\r\n".encode()))
    (item,) = read_file(path)
    assert item.text == text and item.metadata["content_type"] == "text"


def test_http_encodings_statuses_and_types(tmp_path):
    body = PAGE.replace("{n}", "7").encode()
    chunked = (
        b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (body[:100], body[100:])) + b"0\r\n\r\n"
    )
    payloads = [
        response(0, body=chunked, head="Transfer-Encoding: chunked\r\n"),
        response(1, body=gzip.compress(body), head="Content-Encoding: gzip\r\n"),
        response(2, body=zlib.compress(body), head="Content-Encoding: deflate\r\n"),
        response(
            3, body=body, head="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"
        ),  # decoded by the crawler
        response(4, status="404 Not Found"),
        response(5, kind="image/png"),
        response(6, body=bytes(range(256)) * 40, kind="text/html"),
        b"not http at all",
        response(8, body=b"x" * 3_000_000),
    ]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(gzip.compress(record(n, payload)) for n, payload in enumerate(payloads)))
    items = read_file(path, max_bytes=1_000_000)
    assert [item.text for item in items[:4]] == [body.decode()] * 4
    assert [item.drop.reason for item in items if isinstance(item, Rejected)] == [
        "read.http_status",
        "read.content_type",
        "read.max_bytes",
    ]
    dead = [item for item in items if isinstance(item, DeadLetter)]
    assert len(dead) == 2 and "no encoding" in dead[0].error and "no HTTP response" in dead[1].error
    assert len(items) == len(payloads)


def test_folders_of_html(tmp_path):
    (tmp_path / "siteA").mkdir()
    (tmp_path / "siteA" / "a.html").write_text('<link rel="canonical" href="https://www.a.org/x?p=1&amp;q=2"><p>a')
    (tmp_path / "siteA" / "b.htm").write_bytes("<p>größer".encode("latin-1"))
    (tmp_path / "siteA" / "style.css").write_text("p {}")
    (tmp_path / "siteA" / "c.html.gz").write_bytes(gzip.compress(b"<p>c" * 1000)[:-30])
    (tmp_path / "siteA" / "d.html").write_bytes(bytes(range(256)) * 30)
    (tmp_path / "siteA" / "e.html").write_bytes(b"e" * 200_000)
    config = InputConfig(format="html", paths=[str(tmp_path)], max_bytes=100_000)
    works = list(source.format_module(config).list_work(config))
    items = [item for work in works for item in source.read(config, work)]
    assert len(items) == 5
    assert items[0].metadata["url"] == "https://www.a.org/x?p=1&q=2" and items[0].metadata["group"] == "a.org"
    assert items[1].text == "<p>größer" and items[1].metadata["group"] == "siteA"
    assert [type(item) for item in items[2:]] == [DeadLetter, DeadLetter, Rejected]


def test_python_docs_are_real_pages_and_a_module_that_fails_costs_itself():
    config = InputConfig(format="python-docs")
    assert {"json.decoder", "argparse", "asyncio.tasks"} <= set(python_docs.module_names())
    work = Work(("argparse", "asyncio.windows_events", "concurrent.futures", "json.decoder"))
    first, failed, lazy, last = source.read(config, work)
    assert "parsing&nbsp;library" in first.text and "<html" in first.text.lower()
    assert isinstance(failed, DeadLetter) and "win32" in failed.error and failed.where == "pydoc:asyncio.windows_events"
    assert last.metadata["group"] == "json" and "ThreadPoolExecutor" in lazy.text
    assert [item.text for item in source.read(config, Work(("json.decoder", "argparse")))] == [last.text, first.text]


def test_python_source_is_read_and_never_imported():
    import sys

    before = set(sys.modules)
    config = InputConfig(format="python-source", limit=60, max_bytes=50_000)
    works = list(python_source.list_work(config))
    items = [item for work in works for item in source.read(config, work)]
    assert len(items) == 60 and set(sys.modules) == before
    assert all(item.metadata["content_type"] == "code" for item in items if isinstance(item, Document))
    again = [item for work in python_source.list_work(config) for item in source.read(config, work)]
    assert items == again
