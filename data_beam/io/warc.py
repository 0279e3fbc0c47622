"""WARC files, plain or `.gz`: the pages of their HTTP responses, and the text of WET files.

The record loop is our own, because a crawl's files do end in the middle: a broken record costs itself, and the loop
goes on at the next gzip member (or the next `WARC/` line) if there is one. ISO 28500:2017.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from data_beam.document import DeadLetter, Document, Drop, Rejected, document_id
from data_beam.io import clean
from data_beam.io.encoding import NoEncoding, decode
from data_beam.io.files import CHUNK, BrokenFile, open_file, site
from data_beam.io.jsonl import list_work
from data_beam.io.source import Read, Work, limited, source_name, too_large
from maxllm.config.curate import InputConfig

__all__ = ["list_work", "read", "records"]

GZIP = b"\x1f\x8b\x08"
HEADER_BYTES = 1 << 16
MEMBER_CHUNK = 1 << 14
LOOK_BACK = 4 << 20
MAX_URL = 8192  # characters
STATUS = re.compile(rb"HTTP/\S*\s+(\d{3})\b")
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*")
LENGTH = re.compile(r"[0-9]{1,15}")
PAGES = ("text/html", "application/xhtml+xml", "text/plain")


@dataclass(frozen=True, slots=True)
class Record:
    """`fields` with lower-case names; `body` cut at the caller's limit, `length` as declared."""

    fields: dict[str, str]
    body: bytes
    length: int


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    files = zip(work.names, work.times or itertools.repeat(work.added), strict=False)
    found = itertools.chain.from_iterable(_read_file(config, path, added) for path, added in files)
    yield from limited(found, config.limit)


def _read_file(config: InputConfig, path: str, added: str) -> Iterator[Read]:
    number = 0
    try:
        with open_file(path) as stream:
            for number, record in enumerate(records(stream, config.max_bytes + HEADER_BYTES)):
                if isinstance(record, str):
                    yield DeadLetter(f"{path}:{number}", "read", record)
                elif record.fields.get("warc-type") in ("response", "conversion"):
                    yield _page(config, path, number, record, added)
    except OSError as error:
        yield DeadLetter(path, "read", f"after record {number}: {error}")


def _page(config: InputConfig, path: str, number: int, record: Record, added: str) -> Read:
    location, source = f"{path}:{number}", source_name(config)
    url = record.fields.get("warc-target-uri", "").strip("<>")[:MAX_URL]
    if record.length > config.max_bytes + HEADER_BYTES:
        return too_large(config, path, record.length, added, number)
    try:
        if record.fields["warc-type"] == "conversion":  # WET: text that the crawler extracted
            status, fields, body = 200, record.fields, record.body
        else:
            status, fields, body = http_response(record.body, config.max_bytes)
        if len(body) > config.max_bytes:
            return too_large(config, path, len(body), added, number)
        content_type, _, parameters = fields.get("content-type", "text/html").partition(";")
        content_type = content_type.strip().lower()
        text, drop = "", None
        if status != 200:
            drop = Drop("read.http_status", status)
        elif content_type not in PAGES:
            drop = Drop("read.content_type", content_type)
        else:
            text = decode(body, parameters.partition("charset=")[2].strip(" \"'") or None)
    except (BrokenFile, NoEncoding, ValueError, zlib.error) as error:
        return DeadLetter(f"{location} {url}", "read", f"{type(error).__name__}: {error}"[:300])
    kind = "text" if content_type == "text/plain" else "html"
    metadata = {"url": url, "path": clean.text(path), "content_type": kind, "group": site(url) or ""}
    created = clean.time(record.fields.get("warc-date"))
    document = Document(document_id(source, path, number), text, source, added or created or "", created, metadata)
    return Rejected(document, drop) if drop else document


def http_response(data: bytes, max_bytes: int) -> tuple[int, dict[str, str], bytes]:
    """(status, lower-case header fields, body without transfer and content encodings, at most `max_bytes` + 1).

    Raises BrokenFile and zlib.error.
    """
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        head, separator, body = data.partition(b"\n\n")
    status_line, _, rest = head.partition(b"\n")
    if not separator or not status_line.startswith(b"HTTP/"):
        raise BrokenFile("the record holds no HTTP response")
    if (code := STATUS.match(status_line)) is None:
        raise BrokenFile("the response has no status")
    status = int(code[1])
    fields = _fields(rest)
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = _unchunked(body)
    encoding = fields.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip") and body.startswith(GZIP):
        body = _inflated(body, 31, max_bytes)
    elif encoding == "deflate":
        body = _inflated(body, 15 if body[:1] == b"\x78" else -15, max_bytes)
    elif encoding not in ("identity", "", "gzip", "x-gzip"):  # crawlers often leave the field of a body they decoded
        raise BrokenFile(f"content encoding {encoding} is not supported")
    return status, fields, body


def _inflated(body: bytes, wbits: int, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(wbits)
    inflated = decompressor.decompress(body, max_bytes + 1)
    if len(inflated) <= max_bytes and not decompressor.eof:
        raise BrokenFile("the compressed body ends early")
    return inflated


def _unchunked(body: bytes) -> bytes:
    """RFC 9112, section 7.1; a body that a crawler has already put together comes back as it is."""
    parts, place = [], 0
    while True:
        end = body.find(b"\r\n", place)
        digits = CHUNK_SIZE.fullmatch(body[place : min(end, place + 100)].partition(b";")[0]) if end >= 0 else None
        if digits is None:
            return body if not parts else b"".join(parts)
        size = int(digits[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        place = end + 2 + size + 2


def _fields(head: bytes) -> dict[str, str]:
    fields = {}
    for line in head.splitlines():
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.decode("latin-1").strip().lower()] = value.decode("utf-8", "replace").strip()
    return fields


def records(stream, max_body: int) -> Iterator[Record | str]:
    """Records in order; a string, saying what was wrong, in the place of a broken one."""
    source = _Bytes(stream)
    if source.peek(3) != GZIP:
        yield from _parse(source, max_body, at_end=True)
        return
    while source.peek(1):
        if source.peek(3) != GZIP:
            if not source.seek_past(GZIP):
                return
        member = _Member(source)
        held: Record | str | None = None  # until its member's checksum is known to be right
        several = False
        try:
            for record in _parse(_Bytes(member), max_body, at_end=False):
                if held is not None:
                    yield held
                    several = True
                held = record
            member.drain()
        except (BrokenFile, zlib.error) as error:
            member.give_back()
            if several and held is not None:
                yield held
            held = f"broken record: {error}"
        if held is not None:
            yield held


class _Bytes:
    """A buffered stream one can look ahead in."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.place = 0  # of the next byte in the buffer: taking one must not copy the rest

    def __len__(self) -> int:
        return len(self.buffer) - self.place

    def peek(self, size: int) -> bytes:
        if len(self) < size:
            parts, held = [self.buffer[self.place :]], len(self)
            while held < size and (data := self.stream.read(CHUNK)):
                parts.append(data)
                held += len(data)
            self.buffer, self.place = b"".join(parts), 0
        return self.buffer[self.place : self.place + size]

    def take(self, size: int) -> bytes:
        data = self.peek(size)
        self.place += len(data)
        return data

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty only at the end."""
        return self.take(min(size, len(self)) or len(self.peek(1)))

    def skip(self, size: int) -> int:
        left = size
        while left and (data := self.read(min(left, CHUNK))):
            left -= len(data)
        return size - left

    def give_back(self, data: bytes) -> None:
        self.buffer, self.place = data + self.buffer[self.place :], 0

    def seek_past(self, mark: bytes) -> bool:
        """Moves to the next occurrence of `mark`; False when there is none."""
        while self.peek(len(mark)):
            place = self.buffer.find(mark, self.place)
            if place >= 0:
                self.place = place
                return True
            kept = self.buffer[max(self.place, len(self.buffer) - len(mark) + 1) :]
            data = self.stream.read(CHUNK)
            self.buffer, self.place = (kept + data if data else b""), 0
        return False


class _Member:
    """One gzip member as a stream; leaves the source right behind itself."""

    def __init__(self, source: _Bytes) -> None:
        self.source = source
        self.decompressor = zlib.decompressobj(wbits=31)
        self.raw: deque[bytes] = deque()  # what was read of it last, for looking for the next one when it is broken
        self.first = True

    def read(self, size: int) -> bytes:
        while not self.decompressor.eof:
            data = self.source.read(MEMBER_CHUNK)
            if not data:
                raise BrokenFile("truncated: the file ends inside a record")
            self.raw.append(data)
            if len(self.raw) > LOOK_BACK // MEMBER_CHUNK:
                self.raw.popleft()
                self.first = False
            output = self.decompressor.decompress(data)
            if self.decompressor.eof:
                self.source.give_back(self.decompressor.unused_data)
            if output:
                return output
        return b""

    def give_back(self) -> None:
        """After an error: the source stands behind this member's first byte, or as far back as is remembered."""
        data = b"".join(self.raw)
        self.source.give_back(data[1:] if self.first else data)

    def drain(self) -> None:
        while self.read(CHUNK):
            pass


def _parse(source: _Bytes, max_body: int, *, at_end: bool) -> Iterator[Record | str]:
    """Records of a decompressed stream. `at_end`: the stream is the whole file, so its end may cut a record."""
    while True:
        while (window := source.peek(HEADER_BYTES)) and (blank := len(window) - len(window.lstrip(b"\r\n"))):
            source.take(blank)
        if not window:
            return
        end = window.find(b"\r\n\r\n")
        fields = _fields(window[: max(end, 0)])
        if not window.startswith(b"WARC/") or end < 0 or not LENGTH.fullmatch(fields.get("content-length", "")):
            yield "broken record: no WARC header where one should be"
            source.take(1)
            if not at_end or not source.seek_past(b"\r\nWARC/"):
                source.skip(1 << 62)
                return
            continue
        source.take(end + 4)
        length = int(fields["content-length"])
        body = source.take(min(length, max_body))
        skipped = source.skip(length - len(body)) if length > len(body) >= max_body else 0
        if len(body) + skipped < length:
            yield f"broken record: truncated, {len(body)} of {length} bytes"
            return
        yield Record(fields, body, length)
