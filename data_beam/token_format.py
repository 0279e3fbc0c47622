"""What a token data set is on disk, for those who write it and those who read it. No Beam here, and no JAX.

    OUT/dataset.json                                        counts, checksums, whose tokens these are
    OUT/tokenizer/                                          the tokenizer itself
    OUT/<split>/<source>-00000-of-00004.array_record        one record a document, in order of their ids
    OUT/<split>/<source>-00000-of-00004.256.pieces.npy      the packing into sequences of 256
    OUT/<split>/<source>-00000-of-00004.256.rows.npy

A record is a 24-byte little-endian header, the document's id in UTF-8, and its tokens as uint16 or uint32:

    uint8   version (1)          uint32  part              uint64  hash of the document's group
    uint8   bytes per token      uint64  UTF-8 bytes of the text (in part 0; else 0)
    uint16  length of the id

A document is `bos tokens eos` (whichever the tokenizer has). One of more than `PART_TOKENS` tokens is several records,
parts 0, 1, 2, ...; the first token of a part is the last of the part before it, so that every next token is known.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

VERSION = 1
DATASET = "dataset.json"
TOKENIZER = "tokenizer"
SPLITS = ("train", "held_out")
PART_TOKENS = 1 << 16
_HEADER = struct.Struct("<BBHIQQ")


class Record(NamedTuple):
    document_id: str
    part: int
    text_bytes: int
    group: int  # `hash64` of the document's group
    tokens: np.ndarray  # uint16 or uint32


def pack_record(record: Record) -> bytes:
    name = record.document_id.encode()
    width = record.tokens.dtype.itemsize
    header = _HEADER.pack(VERSION, width, len(name), record.part, record.text_bytes, record.group)
    return header + name + record.tokens.astype(f"<u{width}").tobytes()


def unpack_record(data: bytes) -> Record:
    """Raises ValueError when `data` is not such a record. `tokens` is a view of `data`."""
    if len(data) < _HEADER.size or data[0] != VERSION or data[1] not in (2, 4):
        raise ValueError("not a token record of version 1")
    _, width, length, part, text_bytes, group = _HEADER.unpack_from(data)
    start = _HEADER.size + length
    return Record(data[_HEADER.size : start].decode(), part, text_bytes, group, tokens_of(data))


def tokens_of(data: bytes) -> np.ndarray:
    """A record's tokens alone, a view of `data`."""
    start = _HEADER.size + int.from_bytes(data[2:4], "little")
    return np.frombuffer(data, f"<u{data[1]}", offset=start)


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def document_records(document_id: str, tokens: np.ndarray, text_bytes: int, group: int) -> Iterator[Record]:
    """The records of one document: its tokens in parts that overlap by one."""
    for part, start in enumerate(range(0, max(len(tokens) - 1, 1), PART_TOKENS)):
        yield Record(document_id, part, 0 if part else text_bytes, group, tokens[start : start + PART_TOKENS + 1])


def join_parts(records: Iterable[Record]) -> Iterator[Record]:
    """Whole documents again, from records in the order in which a shard has them."""
    held: list[Record] = []
    for record in records:
        if held and record.part == 0:
            yield _join(held)
            held = []
        held.append(record)
    if held:
        yield _join(held)


def _join(parts: list[Record]) -> Record:
    first, *rest = parts
    return first._replace(tokens=np.concatenate([first.tokens, *(part.tokens[1:] for part in rest)]))


def hash64(*words: object) -> int:
    """64 bits that depend on nothing but the words."""
    digest = hashlib.blake2b("\0".join(map(str, words)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def split_of(group: str, fraction: float, seed: int) -> str:
    """A group is held out as a whole, whatever its source: near copies within it never straddle the split."""
    return "held_out" if hash64("held_out", seed, group) < fraction * 2.0**64 else "train"


def shard_name(split: str, source: str, index: int, count: int) -> str:
    """Relative to the data set, without a suffix."""
    return f"{split}/{quote(source or 'unknown', safe='')}-{index:05d}-of-{count:05d}"


def packing_names(shard: str, sequence_length: int) -> tuple[str, str]:
    """The two files of a shard's packing: pieces, and where each row's pieces begin."""
    return f"{shard}.{sequence_length}.pieces.npy", f"{shard}.{sequence_length}.rows.npy"
