"""Writing one shard: the ArrayRecord file and its packings, made on this machine's disk and then put in place."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_beam.output import make_folder
from data_beam.packing import plan
from data_beam.token_format import packing_names, tokens_of, unpack_record

# One record a chunk, as it is: a record is read alone, and tokens hardly compress.
WRITER_OPTIONS = "group_size:1,uncompressed"
COPY = 1 << 22


@dataclass(frozen=True)
class Shard:
    """One entry of dataset.json's `shards`. `name` and the files' paths are relative to the data set."""

    name: str
    split: str
    source: str
    documents: int
    records: int
    tokens: int
    bytes: int  # of text
    duplicates: int  # documents left out because their id was there already
    file: dict[str, Any]
    years: dict[str, int] = field(default_factory=dict)  # tokens by the year of their document
    packings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def all_files(self) -> list[dict[str, Any]]:
        return [self.file, *(file for packing in self.packings.values() for file in packing["files"])]


def write_shard(
    gathered: tuple[tuple[str, str, str], Iterable[tuple[str, bytes]]], folder: str, lengths: list[int]
) -> Shard:
    """Writes `folder`/<shard>.* and describes it, from (year, record) pairs.

    The same records give the same bytes, in whatever order they come.
    """
    (split, source, name), records = gathered
    numbered = sorted((unpack_record(data)[:2], data, year) for year, data in records)
    kept: dict[tuple[str, int], bytes] = {}
    years: Counter[str] = Counter()
    for place, data, year in numbered:
        if place not in kept:
            kept[place] = data
            years[year] += len(tokens_of(data)) - (place[1] > 0)  # a further part repeats one token
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "shard.array_record")
        writer = ArrayRecordWriter(path, WRITER_OPTIONS)
        for data in kept.values():
            writer.write(data)
        writer.close()
        file = _upload(path, folder, f"{name}.array_record")
        counts = np.array([len(tokens_of(data)) for data in kept.values()], np.int64)
        packings = {
            str(length): _write_packing(counts, length, scratch, folder, name) for length in sorted(set(lengths))
        }
    parts = len(kept)
    documents = sum(part == 0 for _, part in kept)
    return Shard(
        name=name,
        split=split,
        source=source,
        documents=documents,
        records=parts,
        tokens=int(counts.sum()) - (parts - documents),
        bytes=sum(unpack_record(data).text_bytes for data in kept.values()),
        duplicates=sum(place[1] == 0 for place, _, _ in numbered) - documents,
        years=dict(sorted(years.items())),
        file=file,
        packings=packings,
    )


def add_packings(shard: Shard, folder: str, lengths: list[int]) -> Shard:
    """Plans further lengths for a shard that exists."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "shard.array_record")
        with (
            FileSystems.open(
                FileSystems.join(folder, *shard.file["path"].split("/")), compression_type=_PLAIN
            ) as source,
            open(path, "wb") as target,
        ):
            shutil.copyfileobj(source, target, COPY)
        reader = ArrayRecordReader(path)
        counts = np.array([len(tokens_of(reader.read())) for _ in range(reader.num_records())], np.int64)
        reader.close()
        added = {str(length): _write_packing(counts, length, scratch, folder, shard.name) for length in lengths}
    return dataclasses.replace(shard, packings={**shard.packings, **added})


_PLAIN = CompressionTypes.UNCOMPRESSED


def _write_packing(counts: np.ndarray, length: int, scratch: str, folder: str, name: str) -> dict[str, Any]:
    planned = plan(counts, length)
    files = []
    for array, target in zip(planned, packing_names(name, length), strict=True):
        path = os.path.join(scratch, "packing.npy")
        np.save(path, array)
        files.append(_upload(path, folder, target))
    rows = len(planned.rows) - 1
    return {"rows": rows, "pieces": len(planned.pieces), "pairs": int(planned.pieces["length"].sum()), "files": files}


def _upload(path: str, folder: str, name: str) -> dict[str, Any]:
    """Puts a local file in place, whole or not at all. Returns its path, size and SHA-256."""
    target = FileSystems.join(folder, *name.split("/"))
    make_folder(target.rsplit("/", 1)[0])
    part = f"{target}.{os.getpid()}.{os.urandom(4).hex()}.part"
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as source, FileSystems.create(part, compression_type=_PLAIN) as stream:
        while data := source.read(COPY):
            digest.update(data)
            size += len(data)
            stream.write(data)
    FileSystems.rename([part], [target])
    return {"path": name, "size": size, "sha256": digest.hexdigest()}
