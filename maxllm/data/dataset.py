"""A token data set as written by `maxllm tokenize`: what it holds, checked before anything is read from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_beam.token_format import DATASET, VERSION, join_parts, packing_names, tokens_of, unpack_record
from maxllm.config.errors import UserError

# Up to this many bytes every checksum is verified when a data set is opened; above it, sizes, and ArrayRecord's own
# checksum of each record as it is read.
VERIFIED_BYTES = 1 << 30


def is_dataset(path: str | Path) -> bool:
    """Whether a finished token data set lies at `path`."""
    return (Path(path) / DATASET).is_file() and (Path(path) / "_SUCCESS").is_file()


class Shard:
    """One ArrayRecord file. Opened when first read, anew in every process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, records: Sequence[int]) -> list[bytes]:
        """Raises UserError, naming the file, when it is damaged."""
        try:
            return self._reader.read(list(records))
        except Exception as error:  # array_record raises whatever its C++ does
            raise _damaged(self.path, str(error)) from error

    def __len__(self) -> int:
        return self._reader.num_records()

    @cached_property
    def _reader(self) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        try:
            return ArrayRecordReader(str(self.path), "readahead_buffer_size:0,max_parallelism:0")
        except Exception as error:
            raise _damaged(self.path, str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}


class Packing:
    """The rows of one shard: which pieces of which records they hold. Memory-mapped."""

    def __init__(self, pieces: Path, rows: Path) -> None:
        self._paths = pieces, rows

    @cached_property
    def pieces(self) -> np.ndarray:
        """[pieces] of (record, start, length)."""
        return np.load(self._paths[0], mmap_mode="r")

    @cached_property
    def rows(self) -> np.ndarray:
        """[rows + 1]: row r is `pieces[rows[r]:rows[r + 1]]`."""
        return np.load(self._paths[1], mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths}


class Dataset:
    """A folder with dataset.json."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_dataset(self.path):
            raise UserError(f"{path} holds no finished token data set; write one with `maxllm tokenize`")
        self.description = json.loads((self.path / DATASET).read_text())
        if self.description["version"] != VERSION:
            raise UserError(
                f"{path} is of version {self.description['version']}; write it again: maxllm tokenize --force"
            )

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.description["tokenizer"]["fingerprint"]

    def sources(self, split: str) -> list[str]:
        return sorted(self.description["counts"][split])

    def shards(self, split: str, source: str | None = None) -> list[dict[str, Any]]:
        """Entries of dataset.json, in order of their names; of every source when `source` is None."""
        return [
            shard
            for shard in self.description["shards"]
            if shard["split"] == split and source in (None, shard["source"])
        ]

    def open(self, shard: dict[str, Any]) -> Shard:
        return Shard(self.path / shard["file"]["path"])

    def packing(self, shard: dict[str, Any], sequence_length: int) -> Packing:
        if str(sequence_length) not in shard["packings"]:
            planned = self.description["sequence_lengths"]
            raise UserError(
                f"{self.path} is packed for sequences of {planned}, not {sequence_length}; add it with the config it "
                f"was made with: maxllm tokenize CONFIG 'sequence_lengths={sorted([*planned, sequence_length])}'"
            )
        pieces, rows = packing_names(shard["name"], sequence_length)
        return Packing(self.path / pieces, self.path / rows)

    def check(self, shards: Sequence[dict[str, Any]], sequence_length: int | None = None) -> None:
        """Raises UserError, naming the file, when one is absent or not what was written."""
        files = [shard["file"] for shard in shards]
        if sequence_length is not None:
            for shard in shards:
                self.packing(shard, sequence_length)
                files += shard["packings"][str(sequence_length)]["files"]
        in_full = sum(file["size"] for file in files) <= VERIFIED_BYTES
        for file in files:
            path = self.path / file["path"]
            if not path.is_file():
                raise _damaged(path, "it is not there")
            if path.stat().st_size != file["size"]:
                raise _damaged(path, f"it has {path.stat().st_size} bytes where {file['size']} were written")
            if in_full:
                with path.open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != file["sha256"]:
                        raise _damaged(path, "its checksum is not the one in dataset.json")


def read_documents(path: str | Path, split: str, source: str | None = None) -> Iterator[tuple[str, int, np.ndarray]]:
    """`(document id, UTF-8 bytes of its text, tokens [n])` of each document, `bos` and `eos` among the tokens."""
    dataset = Dataset(path)
    shards = dataset.shards(split, source)
    dataset.check(shards)
    for entry in shards:
        shard = dataset.open(entry)
        records = (unpack_record(shard.read([i])[0]) for i in range(len(shard)))
        for record in join_parts(records):
            yield record.document_id, record.text_bytes, record.tokens


def read_tokens(shard: Shard, records: Sequence[int]) -> list[np.ndarray]:
    return [tokens_of(data) for data in shard.read(records)]


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}; write it again: maxllm tokenize CONFIG --force")
