"""Pairs of byte strings in files: edges between jobs, and the index kept for later runs.

A line a pair, both sides in hexadecimal with a tab between them, compressed by zstandard: anything can read it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import apache_beam as beam
import zstandard
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from data_beam.dedup.groups import Pair, windowed
from data_beam.io.files import chunks, lines
from data_beam.output import read_json

FILE_PAIRS = 4_000_000  # some 200 MB
_BATCH = 2000
_MAX_LINE = 1 << 20


class WritePairs(beam.DoFn):
    """Pairs into FOLDER/<random>.zst; yields the name of each file once it is whole. A bundle writes its own files.

    One that is tried again leaves a file behind that nobody was told of.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def start_bundle(self) -> None:
        self.stream = None  # what a failed bundle left open is not this one's
        self.held: list[Pair] = []

    def process(self, pair: Pair) -> Iterator[str]:
        self.held.append(pair)
        if len(self.held) >= _BATCH:
            self._write()
            if self.count >= FILE_PAIRS:
                yield self._close()

    def finish_bundle(self) -> Iterator:
        if self.held:
            self._write()
        if self.stream is not None:
            yield windowed(self._close())

    def _write(self) -> None:
        if self.stream is None:
            self.name = f"{uuid.uuid4().hex}.zst"
            path = FileSystems.join(self.folder, self.name)
            self.stream = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
            self.lines = zstandard.ZstdCompressor(level=3).stream_writer(self.stream, closefd=False)
            self.count = 0
        self.lines.write("".join([f"{left.hex()}\t{right.hex()}\n" for left, right in self.held]).encode())
        self.count += len(self.held)
        self.held = []

    def _close(self) -> str:
        assert self.stream is not None
        self.lines.close()
        self.stream.close()
        self.stream = None
        return self.name


def read_pairs(path: str) -> Iterator[Pair]:
    """Raises BrokenFile where the file was damaged."""
    for line in lines(chunks(path), _MAX_LINE):
        assert isinstance(line, bytes)
        left, right = line.decode().split("\t")
        yield bytes.fromhex(left), bytes.fromhex(right)


class ReadPairs(beam.PTransform):
    """Pairs of the files that `files_of(source)` names for each source, asked on a worker: lists may be long."""

    def __init__(self, sources: list[str], files_of: Callable[[str], list[str]]) -> None:
        super().__init__()
        self.sources, self.files_of = sources, files_of

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Pair]:
        return (
            root
            | "sources" >> beam.Create(self.sources, reshuffle=False)
            | "files" >> beam.FlatMap(self.files_of).with_output_types(str)
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(read_pairs).with_output_types(Pair)
        )


def files_of_phase(name: str, manifest: str) -> list[str]:
    """Paths of the files of pairs that a phase wrote beside each other, from its manifest."""
    content = read_json(manifest)
    return [FileSystems.join(content["folder"], name, file) for file in content[name]]
