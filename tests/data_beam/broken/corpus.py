"""Writes files as broken as crawls, uploads and attackers make them: `python tests/data_beam/broken/corpus.py FOLDER`.

Each case is a function (folder) -> None in the table of its format; what must come of it stands beside it:
`documents`, how many are read all the same (None: at least one), and `says`, a word of each dead letter or drop.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import zstandard

GOOD = [f"document {n} about the sea, the tide and the harbour at night — größer" for n in range(20)]
NOISE = "".join(chr(97 + (n * n * 7919) % 26) for n in range(20_000))  # does not compress to nothing


class Case(NamedTuple):
    make: Callable[[Path], None]
    documents: int | None
    says: str = ""


def line(text: str, **more: object) -> bytes:
    return json.dumps({"text": text, **more}).encode() + b"\n"


def good(count: int = 20) -> bytes:
    return b"".join(line(f"{text} {NOISE[n * 300 : n * 300 + 900]}") for n, text in enumerate(GOOD[:count]))


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data)


def bomb(size: int, level: int = 9) -> bytes:
    """A gzip member of `size` zeros."""
    import zlib

    compressor = zlib.compressobj(level, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    parts = [compressor.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join([*parts, compressor.flush()])


def zstd_bomb(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    block = bytes(1 << 20)
    parts = [compressor.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join([*parts, compressor.flush()])


def nested(depth: int) -> bytes:
    return b'{"text": "deep", "more": ' + b"[" * depth + b"]" * depth + b"}\n"


GREATER = '{"text": "größer"}\n'
ZSTD = zstandard.ZstdCompressor(level=3)
HALF = len(gzip.compress(good())) // 2

JSONL: dict[str, Case] = {
    "truncated gzip": Case(content("a.jsonl.gz", gzip.compress(good())[:HALF]), None, "truncated"),
    "gzip cut in its header": Case(content("a.jsonl.gz", gzip.compress(good())[:5]), 0, "truncated"),
    "gzip with a garbage tail": Case(content("a.jsonl.gz", gzip.compress(good()) + b"garbage" * 9), 20, "broken"),
    "gzip padded with zeros": Case(content("a.jsonl.gz", gzip.compress(good()) + bytes(512)), 20),
    "gzip that is plain": Case(content("a.jsonl.gz", good()), 0, "broken"),
    "plain that is gzip": Case(content("a.jsonl", gzip.compress(good())), 0, "not JSON"),
    "gzip with a wrong checksum": Case(
        content("a.jsonl.gz", gzip.compress(good())[:-8] + b"\1\2\3\4" + gzip.compress(good())[-4:]), 0, "broken"
    ),
    "truncated zstd": Case(content("a.jsonl.zst", ZSTD.compress(good())[:-200]), 0, "truncated"),
    "zstd with a garbage tail": Case(content("a.jsonl.zst", ZSTD.compress(good()) + b"garbage" * 9), 20, "broken"),
    "zstd with an endless window": Case(content("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00\xf8" + b"\0" * 64), 0, "broken"),
    "empty file": Case(content("a.jsonl", b""), 0),
    "empty gzip": Case(content("a.jsonl.gz", gzip.compress(b"")), 0),
    "gzip of no bytes": Case(content("a.jsonl.gz", b""), 0),
    "blank lines": Case(content("a.jsonl", b"\n" * 3000 + line("x") + b"  \r\n" * 30), 1),
    "empty text": Case(content("a.jsonl", line("") + line(" \n ") + line("x")), 3),
    "mixed encodings": Case(
        content("a.jsonl", line("a") + '{"text": "größer"}\n'.encode("latin-1") + '{"text": "größer"}\n'.encode()),
        2,
        "utf-8",
    ),
    "UTF-16": Case(content("a.jsonl", (GREATER * 2).encode("utf-16")), 0, "not JSON"),
    "byte order mark": Case(content("a.jsonl", b"\xef\xbb\xbf" + line("a") + line("b")), 2),
    "CRLF": Case(content("a.jsonl", good().replace(b"\n", b"\r\n")), 20),
    "NUL bytes": Case(content("a.jsonl", line("a\0b\0") + b"\0\0\0\n" + line("c")), 2, "not JSON"),
    "bidi controls and zero width": Case(
        content("a.jsonl", line("abc\u202edef\u202c \u2066x\u2069 zero\u200bwidth\u200d\ufeff")), 1
    ),
    "lone surrogates": Case(
        content("a.jsonl", b'{"text": "a\\ud800b", "k\\udfff": {"\\ud801": ["\\udc00"]}, "source": "s\\ud800"}\n'), 1
    ),
    "duplicate ids": Case(content("a.jsonl", line("one", id="x") + line("two", id="x") + line("one", id="x")), 3),
    "duplicate keys": Case(content("a.jsonl", b'{"text": 1, "text": "a"}\n'), 1),
    "ids of every type": Case(
        content("a.jsonl", b"".join(line("x", id=id) for id in (1, 1.5, [1], {"a": 1}, True, "", None))), 7
    ),
    "huge numbers": Case(
        content("a.jsonl", b'{"text": "a", "n": 1e999, "m": -1e999, "i": 1' + b"0" * 400 + b"}\n" + line("b")), 2
    ),
    "numbers of 5,000 digits": Case(content("a.jsonl", b'{"text": "a", "i": ' + b"9" * 5000 + b"}\n"), 0, "not JSON"),
    "NaN": Case(content("a.jsonl", b'{"text": "a", "n": NaN, "m": [Infinity, -Infinity]}\n'), 1),
    "nested 60 deep": Case(content("a.jsonl", nested(60)), 1),
    "nested 900 deep": Case(content("a.jsonl", nested(900) + line("x")), 1, "nested"),
    "nested 90,000 deep": Case(content("a.jsonl", nested(90_000) + line("x")), 1, "recursion"),
    "metadata nested in JSON text": Case(
        content("a.jsonl", line("a", metadata="[" * 100_000) + line("b", metadata='{"a": ' * 80 + "1" + "}" * 80)),
        1,
        "nested",
    ),
    "fields of wrong types": Case(
        content(
            "a.jsonl",
            b"".join(
                line("x", **{key: value})
                for key in (
                    "url",
                    "source",
                    "added",
                    "created",
                    "metadata",
                    "language",
                    "group",
                    "content_type",
                    "path",
                )
                for value in (3, 2.5, [], {"a": [1]}, None, True, "\ud800", "http://[", "x" * 3000)
            ),
        ),
        81,
    ),
    "times": Case(
        content(
            "a.jsonl",
            b"".join(line("x", created=t) for t in ("0000-00-00", "9999-12-31T23:59:59-23:59", -1, 1e20, "now")),
        ),
        5,
    ),
    "no objects": Case(content("a.jsonl", b'1\n"x"\n[]\nnull\ntrue\n{}\n'), 0, "no text"),
    "a long line": Case(content("a.jsonl", line("a") + line("x" * 300_000) + line("b")), 2, "read.max_bytes"),
    "a long last line": Case(content("a.jsonl", line("a") + b"x" * 300_000), 1, "read.max_bytes"),
    "gzip bomb": Case(content("a.jsonl.gz", bomb(32 << 20)), 0, "read.max_bytes"),
    "gzip bomb behind documents": Case(
        content("a.jsonl.gz", gzip.compress(good()) + bomb(32 << 20) + gzip.compress(b"\n" + good())),
        40,
        "read.max_bytes",
    ),
    "zstd bomb": Case(content("a.jsonl.zst", zstd_bomb(256 << 20)), 0, "read.max_bytes"),
    "many gzip members": Case(content("a.jsonl.gz", gzip.compress(b"") * 20_000 + gzip.compress(line("x"))), 1),
}


def links(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(line("a"))
    (folder / "b.jsonl").symlink_to("c.jsonl")
    (folder / "c.jsonl").symlink_to("b.jsonl")
    (folder / "d.jsonl").symlink_to("nowhere")
    (folder / "below").mkdir()
    (folder / "below" / "up").symlink_to("..", target_is_directory=True)


def folder_named_like_a_file(folder: Path) -> None:
    (folder / "a.jsonl").mkdir()
    (folder / "a.jsonl" / "b.jsonl").write_bytes(line("b"))
    (folder / "empty.jsonl.gz").mkdir()


def pipe(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(line("a"))
    os.mkfifo(folder / "b.jsonl")


def odd_names(folder: Path) -> None:
    for name in (b"new\nline.jsonl", b"latin-\xe9.jsonl", "größer \u202e.jsonl".encode(), b"a b'\".jsonl"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as stream:
            stream.write(line("x"))


def forbidden(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(line("a"))
    (folder / "b.jsonl").write_bytes(line("b"))
    (folder / "b.jsonl").chmod(0)


JSONL |= {
    "symbolic links in a circle": Case(links, 1),
    "a folder named like a file": Case(folder_named_like_a_file, 1),
    "a pipe": Case(pipe, 1),
    "odd names": Case(odd_names, 4),
    "a file that may not be read": Case(forbidden, 1 if os.geteuid() else 2, "Permission" if os.geteuid() else ""),
}


def parquet(table: pyarrow.Table, cut: Callable[[bytes], bytes] = bytes, **settings: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pyarrow.parquet.write_table(table, folder / "a.parquet", **settings)
        (folder / "a.parquet").write_bytes(cut((folder / "a.parquet").read_bytes()))

    return make


def lists(depth: int) -> pyarrow.Array:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return pyarrow.array([value])


TEXTS = pyarrow.table({"text": GOOD})
PARQUET: dict[str, Case] = {
    "truncated footer": Case(parquet(TEXTS, lambda data: data[:-6]), 0, "Parquet"),
    "cut in the middle": Case(parquet(TEXTS, lambda data: data[: len(data) // 2]), 0, "Parquet"),
    "empty file": Case(content("a.parquet", b""), 0, "Parquet"),
    "not Parquet": Case(content("a.parquet", b"PAR1" + b"x" * 200 + b"PAR1"), 0, "Parquet"),
    "no rows": Case(parquet(TEXTS.slice(0, 0)), 0),
    "a page overwritten": Case(parquet(TEXTS, lambda data: data[:40] + bytes(60) + data[100:]), 0, "rror"),
    "text of numbers": Case(parquet(pyarrow.table({"text": [1, 2, 3]})), 0, "no text"),
    "no text column": Case(parquet(pyarrow.table({"body": GOOD})), 0, "no text"),
    "nulls and odd columns": Case(
        parquet(
            pyarrow.table(
                {
                    "text": ["a", None, "b"],
                    "when": pyarrow.array([0, None, -(2**62)], pyarrow.timestamp("us")),
                    "raw": pyarrow.array([b"\xff\0", None, b""]),
                    "number": [float("nan"), float("inf"), 1.0],
                    "metadata": ["{", None, '{"a": NaN}'],
                }
            )
        ),
        None,
        "",
    ),
    "bytes that are no UTF-8 in a text column": Case(
        parquet(pyarrow.table({"text": pyarrow.array([b"fine", b"\xff\xfe"]).view(pyarrow.string())})), 1, "utf-8"
    ),
    "nested lists": Case(parquet(pyarrow.table({"text": ["a"], "deep": lists(50)})), 1),
    "a long text": Case(parquet(pyarrow.table({"text": ["a", "x" * 300_000, "b"]})), 2, "read.max_bytes"),
    "one long text for every row": Case(
        parquet(pyarrow.table({"text": pyarrow.array(["y" * 4_000_000] * 100).dictionary_encode()})),
        0,
        "read.max_bytes",
    ),
}


def response(
    body: bytes, head: bytes = b"Content-Type: text/html; charset=utf-8\r\n", status: bytes = b"200 OK"
) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body


def record(payload: bytes, length: object = None, url: str = "http://a.org/x", kind: str = "response") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2020-01-01T00:00:00Z\r\nWARC-Target-URI: {url}\r\n"
    return (
        f"{head}Content-Length: {len(payload) if length is None else length}\r\n\r\n".encode() + payload + b"\r\n\r\n"
    )


PAGE = b"<html><body><p>" + b"the tide is out and the harbour sleeps. " * 9 + b"</p></body></html>"
ONE = record(response(PAGE))


def warc(*records: bytes, name: str = "a.warc") -> Callable[[Path], None]:
    return content(name, b"".join(map(gzip.compress, records)) if name.endswith(".gz") else b"".join(records))


WARC: dict[str, Case] = {
    "length too long": Case(warc(ONE, record(response(PAGE), length=10**6)), 1, "truncated"),
    "length too short": Case(warc(record(response(PAGE), length=60), ONE), None, "broken"),
    "length of 5,000 digits": Case(warc(record(response(PAGE), length="9" * 5000), ONE), 1, "broken"),
    "length that is no ASCII digit": Case(warc(record(response(PAGE), length="²"), ONE), 1, "broken"),
    "negative length": Case(warc(record(response(PAGE), length=-5), ONE), 1, "broken"),
    "no length": Case(warc(b"WARC/1.0\r\nWARC-Type: response\r\n\r\n" + PAGE + b"\r\n\r\n", ONE), 1, "broken"),
    "a megabyte of empty lines": Case(warc(b"\n" * (1 << 20), ONE), 1),
    "garbage between gzip members": Case(
        content("a.warc.gz", gzip.compress(ONE) + b"\x1f\x8b\x08garbage" * 50 + gzip.compress(ONE)), 2, "broken"
    ),
    "truncated gzip member": Case(content("a.warc.gz", gzip.compress(ONE) + gzip.compress(ONE)[:80]), 1, "truncated"),
    "empty file": Case(content("a.warc.gz", b""), 0),
    "not WARC": Case(content("a.warc", b"hello\n" * 100), 0, "broken"),
    "no HTTP": Case(warc(record(b"nothing")), 0, "HTTP"),
    "no status": Case(warc(record(b"HTTP/1.1\r\n\r\nx"), record(b"HTTP/1.1 abc\r\n\r\nx"), ONE), 1, "status"),
    "chunk sizes that go backwards": Case(
        warc(
            *(
                record(response(size + b"\r\n" + PAGE, b"Transfer-Encoding: chunked\r\n"))
                for size in (b"-6", b"-7", b"0x5", b"f" * 40)
            )
        ),
        4,
    ),
    "codecs that are not of text": Case(
        warc(
            *(
                record(response(PAGE, b"Content-Type: text/html; charset=" + name + b"\r\n"))
                for name in (b"zlib", b"hex", b"rot13", b"idna", b"undefined", b"unicode_escape", b"x\0y", b"\xff", b"")
            )
        ),
        9,
    ),
    "compressed body cut": Case(
        warc(record(response(gzip.compress(PAGE)[:-20], b"Content-Encoding: gzip\r\n")), ONE), 1, "early"
    ),
    "compressed body that is a bomb": Case(
        warc(record(response(bomb(64 << 20), b"Content-Encoding: gzip\r\n")), ONE), 1, "read.max_bytes"
    ),
    "gzip member that is a bomb": Case(
        warc(record(response(bytes(48 << 20))), ONE, name="a.warc.gz"), 1, "read.max_bytes"
    ),
    "odd addresses": Case(
        warc(*(record(response(PAGE), url=url) for url in ("http://[", "", "x" * 70_000, "http://a:b:c/", "\ud7ff"))),
        None,
        "",
    ),
    "dates that are none": Case(warc(ONE.replace(b"2020-01-01T00:00:00Z", b"yesterday")), 1),
}

HTML: dict[str, Case] = {
    "empty": Case(content("a.html", b""), 1),
    "nested 20,000 deep": Case(content("a.html", b"<b>" * 20_000 + b"the tide is out" + b"</b>" * 20_000), 1),
    "tables in tables": Case(content("a.html", b"<table><tr><td>" * 5_000 + b"the tide is out"), 1),
    "never closed": Case(content("a.html", b"<p><b><i><a href='" * 2_000 + PAGE), 1),
    "binary": Case(content("a.html", bytes(range(256)) * 40), 0, "encoding"),
    "UTF-16": Case(content("a.html", PAGE.decode().encode("utf-16")), 1),
    "declared wrongly": Case(content("a.html", b'<meta charset="utf-16">' + PAGE), 1),
    "NUL bytes and bidi": Case(content("a.html", PAGE + b"\0" + "\u202eabc\u200b".encode()), 1),
    "entities": Case(content("a.html", b"<p>" + b"&#xD800;&#0;&#x110000;&#99999999999;&amp" * 300), 1),
    "a long page": Case(content("a.html", PAGE * 700), 0, "read.max_bytes"),
    "gzip bomb": Case(content("a.html.gz", bomb(64 << 20)), 0, "read.max_bytes"),
    "attributes without end": Case(content("a.html", b"<p " + b"a=b " * 20_000 + b">text"), 1),
    "comments and cdata": Case(content("a.html", b"<!--" * 5_000 + b"<![CDATA[" * 5_000 + PAGE), 1),
}

FORMATS = {"jsonl": JSONL, "parquet": PARQUET, "warc": WARC, "html": HTML}
MAX_BYTES = 200_000  # that the cases reckon with


def write_all(root: Path) -> None:
    """FORMAT/CASE/files for each case."""
    for format, cases in FORMATS.items():
        for name, case in cases.items():
            folder = root / format / name.replace(" ", "_").replace(",", "")
            folder.mkdir(parents=True)
            case.make(folder)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
