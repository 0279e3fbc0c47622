"""Files wherever Beam can reach them: matching, bytes, decompression that survives a broken end, decoding."""

from __future__ import annotations

import datetime
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import zstandard
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from maxllm.config.errors import UserError

CHUNK = 1 << 20
# Compressed bytes fed at once: what a broken place can take with it, and what bounds the output of a step. Of gzip a
# byte gives at most 1,032; of zstd 3 bytes can give a block of 128 KiB, so that 1 KiB gives at most 43 MiB.
GZIP_CHUNK = 1 << 14
ZSTD_CHUNK = 1 << 10


class BrokenFile(Exception):
    """What could be read was read; the rest of the file cannot be."""


@dataclass(frozen=True, slots=True)
class File:
    path: str
    size: int  # bytes as stored
    written: str  # ISO 8601 UTC, "" where the file system does not say


def matching(patterns: Iterable[str]) -> list[File]:
    """The files that globs, folders (everything below) and plain paths name, once each, in order of their paths."""
    found: dict[str, File] = {}
    for pattern in patterns:
        try:
            matched = _match(pattern)
        except Exception as error:
            raise UserError(f"inputs: cannot list {pattern}: {error}") from error
        if not matched:
            raise UserError(f"inputs: nothing matches {pattern}; check the path, or quote the glob")
        found.update((file.path, file) for file in matched)
    return [found[path] for path in sorted(found)]


def _match(pattern: str) -> list[File]:
    if not any(character in pattern for character in "*?["):
        below = FileSystems.match([FileSystems.join(pattern, "**")])[0].metadata_list
        if below:
            return [file for metadata in below if _readable(file := _file(metadata))]
    found = FileSystems.match([pattern])[0].metadata_list
    return [file for metadata in found if _readable(file := _file(metadata))]


def _readable(file: File) -> bool:
    """Not a pipe or a device: opening one would wait for ever."""
    return "://" in file.path or os.path.isfile(file.path)


def _file(metadata: Any) -> File:
    seconds = getattr(metadata, "last_updated_in_seconds", None)
    return File(metadata.path, metadata.size_in_bytes, iso(seconds) if seconds else "")


def iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def open_file(path: str) -> Any:
    """The bytes as stored; nothing is decompressed."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def chunks(path: str) -> Iterator[bytes]:
    """Decompressed bytes of a `.gz`, `.zst` or plain file. Raises BrokenFile after everything that could be had."""
    with open_file(path) as stream:
        if path.endswith(".gz"):
            yield from _members(stream, lambda: zlib.decompressobj(wbits=31), GZIP_CHUNK)
        elif path.endswith((".zst", ".zstd")):
            yield from _members(stream, lambda: zstandard.ZstdDecompressor().decompressobj(), ZSTD_CHUNK)
        else:
            while data := stream.read(CHUNK):
                yield data


def _members(stream: Any, new: Any, step: int) -> Iterator[bytes]:
    """gzip members or zstd frames, one after the other."""
    decompressor = new()
    pending, begun = b"", False
    while True:
        data = pending[:step] or stream.read(step)
        pending = pending[step:]
        if not data:
            break
        begun = True
        try:
            output = decompressor.decompress(data)
        except (zlib.error, zstandard.ZstdError) as error:
            raise BrokenFile(f"broken compression: {error}") from None
        if output:
            yield output
        if decompressor.eof:
            pending, decompressor, begun = decompressor.unused_data + pending, new(), False
            if not pending.strip(b"\0"):
                pending = b""  # padding between members
    if begun:
        raise BrokenFile("truncated: the compressed data ends early")


def lines(stream: Iterable[bytes], max_bytes: int) -> Iterator[bytes | int]:
    """Lines without their ends; one longer than `max_bytes` yields its length instead and is never held in memory."""
    held: list[bytes] = []
    size = 0
    for chunk in stream:
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            size += end - begin
            if size > max_bytes:
                yield size
            else:
                held.append(chunk[begin:end])
                yield b"".join(held)
            held, size, begin = [], 0, end + 1
        size += len(chunk) - begin
        if size <= max_bytes:
            held.append(chunk[begin:])
        else:
            held = []
    if size > max_bytes:
        yield size
    elif size:
        yield b"".join(held)


def site(url: Any) -> str | None:
    """The host without `www.`: the held-out unit of web pages. None of what is no address."""
    try:
        host = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None
    return host.removeprefix("www.") if host else None
