r"""The ARPA file: written in sections by many workers, put together by one.

    \data\                     counts of n-grams by order
    \1-grams:                  log10 p, the words, log10 back-off (none in the highest order)
    \end\
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from data_beam.io.files import open_file
from data_beam.ngram.block import Block
from data_beam.output import write_bytes

COPY = 1 << 22
SMALLEST = 1e-99  # ARPA's customary log10 of nothing is -99


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the n-grams of one order, in a file of its own."""

    order: int
    shard: int
    path: str
    ngrams: int


def section_text(block: Block, highest: bool) -> str:
    """Of a block with columns probability and back-off, ten significant digits: more than KenLM's float32 holds."""
    probability, backoff = (np.log10(np.maximum(column, SMALLEST)) for column in block.columns)
    words = np.array(block.words, object)
    ngrams = map(" ".join, zip(*(words[column].tolist() for column in block.ids.T), strict=True))
    # A sum of fractions may be 1 and a bit.
    fields = [_texts(np.minimum(probability, 0)), ngrams] + ([] if highest else [_texts(backoff)])
    return "\n".join(map("\t".join, zip(*fields, strict=True))) + "\n"


def _texts(values: np.ndarray) -> list[str]:
    """Most values are those of many n-grams seen once."""
    distinct, place = np.unique(values, return_inverse=True)
    return np.array([f"{value:.10g}" for value in distinct.tolist()], object)[place].tolist()


def write_section(block: Block, shard: int, folder: str, *, highest: bool, compressed: bool) -> Section:
    path = FileSystems.join(folder, f"{block.order}-{shard:05d}")
    write_bytes(path, _stored(section_text(block, highest), compressed))
    return Section(block.order, shard, path, len(block))


def put_together(sections: Iterable[Section], counts: Sequence[int], path: str, *, compressed: bool) -> None:
    """Copies the sections, in order, into one file: as fast as one machine copies bytes, whatever the size.

    Compressed parts one after the other are a gzip file. Raises RuntimeError when n-grams are missing.
    """
    by_order: dict[int, list[Section]] = {order: [] for order in range(1, len(counts) + 1)}
    for section in sections:
        by_order[section.order].append(section)
    for order, count in enumerate(counts, 1):
        if (written := sum(section.ngrams for section in by_order[order])) != count:
            raise RuntimeError(f"{written} {order}-grams were written and {count} counted: n-grams were lost")
    head = "\\data\\\n" + "".join(f"ngram {order}={count}\n" for order, count in enumerate(counts, 1))
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as target:
        target.write(_stored(head, compressed))
        for order, parts in by_order.items():
            target.write(_stored(f"\n\\{order}-grams:\n", compressed))
            for section in sorted(parts, key=lambda section: section.shard):
                with open_file(section.path) as stream:
                    while data := stream.read(COPY):
                        target.write(data)
        target.write(_stored("\n\\end\\\n", compressed))


def _stored(text: str, compressed: bool) -> bytes:
    return gzip.compress(text.encode(), 6, mtime=0) if compressed else text.encode()
