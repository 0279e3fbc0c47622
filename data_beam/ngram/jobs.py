"""The two Beam jobs behind `train`. Elements between workers are (shard, packed block)."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsList, TaggedOutput

from data_beam import progress
from data_beam.document import DeadLetter
from data_beam.io import files
from data_beam.io.documents import read_batches
from data_beam.ngram.arpa import Section, put_together, write_section
from data_beam.ngram.block import Block, concatenate, home, pack, shards_of, split, unpack
from data_beam.ngram.counts import Statistics, adjusted, count_ngrams, statistics, summed
from data_beam.ngram.estimate import Unigrams, interpolate, kept_ngrams, weigh
from data_beam.ngram.prepare import BOS, UNK, Preparation
from data_beam.output import make_folder, read_json, write_bytes
from maxllm.config.perplexity import NgramConfig, PreparationConfig

COUNTED = "counted.json"
NGRAMS, UNIGRAMS, CONTEXTS, WORDS = "ngrams", "unigrams", "contexts", "words"
STATISTICS, SIZES, DEAD = "statistics", "sizes", "dead"
SHOWN_FAILURES = 20


def count(
    pipeline: beam.Pipeline,
    config: NgramConfig,
    preparation: PreparationConfig,
    inputs: list[files.File],
    shards: int,
    folder: str,
) -> None:
    """Leaves in `folder`/counts the n-grams of each context's home with both counts; COUNTED is written last."""
    make_folder(FileSystems.join(folder, "counts"))
    prune = config.prune_thresholds()
    read = (
        pipeline
        | "Files" >> beam.Create([file.path for file in inputs])
        | "Spread" >> beam.Reshuffle()
        | "Count" >> beam.ParDo(Count(config, preparation, shards, folder)).with_outputs(SIZES, DEAD, main=NGRAMS)
    )
    adjust = (
        read[NGRAMS]
        | "SameEnd" >> beam.GroupByKey()
        | "Adjust" >> beam.ParDo(Adjust(config.order, prune, shards)).with_outputs(UNIGRAMS, STATISTICS, main=NGRAMS)
    )
    # Neither is found in a text: lmplz, too, has them with a count of 0.
    special = Block([BOS, UNK], np.array([[0], [1]], np.int32), (np.zeros(2, np.int64),) * 3)
    always = pipeline | "Special" >> beam.Create(list(split(special, shards_of(special, home(1), shards))))
    unigrams = (
        (adjust[UNIGRAMS], always)
        | "AllWords" >> beam.Flatten()
        | "SameWord" >> beam.GroupByKey()
        | "WriteWords" >> beam.ParDo(WriteUnigrams(folder, prune[0])).with_outputs(STATISTICS, main="paths")
    )
    ngrams = (
        adjust[NGRAMS]
        | "SameContext" >> beam.GroupByKey()
        | "WriteNgrams" >> beam.MapTuple(lambda shard, blocks: write_blocks(folder, NGRAMS, shard, blocks))
    )
    found = (
        (adjust[STATISTICS], unigrams[STATISTICS])
        | "AllStatistics" >> beam.Flatten()
        | "Statistics" >> beam.CombinePerKey(lambda parts: sum(parts, start=Statistics(*[0] * 11)))
    )
    (
        pipeline
        | "Last" >> beam.Create([folder], reshuffle=False)
        | "Counted"
        >> beam.Map(
            write_counted,
            shards,
            AsList(found),
            AsList(read[SIZES] | "Sizes" >> beam.CombineGlobally(lambda sizes: np.sum([(0, 0), *sizes], 0).tolist())),
            AsList((ngrams, unigrams["paths"]) | "Paths" >> beam.Flatten()),
            AsList(read[DEAD] | "CountDead" >> beam.combiners.Count.Globally()),
            AsList(read[DEAD] | "FirstDead" >> beam.combiners.Top.Smallest(SHOWN_FAILURES, key=lambda d: d.where)),
        )
    )


class Count(beam.DoFn):
    """Files -> (home, n-grams of the highest order with their count)"""

    def __init__(self, config: NgramConfig, preparation: PreparationConfig, shards: int, folder: str) -> None:
        self._order, self._shards = config.order, shards
        path = preparation.tokenizer and FileSystems.join(folder, *preparation.tokenizer.split("/"))
        self._config = PreparationConfig(normalisation=preparation.normalisation, tokenizer=path)

    def setup(self) -> None:
        self._preparation = Preparation(self._config)

    def process(self, path: str) -> Iterator[Any]:
        for batch in read_batches(path):
            if isinstance(batch, DeadLetter):
                yield TaggedOutput(DEAD, batch)
                continue
            lines = [line for document in batch for line in self._preparation.lines(document.text)]
            progress.count("documents counted", len(batch))
            if (block := count_ngrams(lines, self._order)) is not None:
                yield TaggedOutput(SIZES, (len(lines), sum(map(len, lines))))
                yield from split(block, shards_of(block, home(self._order), self._shards))


class Adjust(beam.DoFn):
    """(home, n-grams that end in the same words) -> (home of the context, n-grams of every order), and statistics"""

    def __init__(self, order: int, prune: list[int], shards: int) -> None:
        self._order, self._prune, self._shards = order, prune, shards

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        shard, blocks = element
        for block in adjusted([unpack(data) for data in blocks], self._order, self._prune):
            if block.order == 1:
                origin = np.full(len(block), shard, np.int64)
                words = Block(block.words, block.ids, (*block.columns, origin))
                for item in split(words, shards_of(words, home(1), self._shards)):
                    yield TaggedOutput(UNIGRAMS, item)
            else:
                kept = kept_ngrams(block, self._prune[block.order - 1])
                yield TaggedOutput(STATISTICS, (block.order, statistics(block.columns[0], kept)))
                yield from split(block, shards_of(block, slice(0, -1), self._shards))


class WriteUnigrams(beam.DoFn):
    def __init__(self, folder: str, prune: int) -> None:
        self._folder, self._prune = folder, prune

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        shard, blocks = element
        blocks = list(blocks)
        block = words_of([unpack(data) for data in blocks])
        yield TaggedOutput(STATISTICS, (1, statistics(block.columns[0], kept_ngrams(block, self._prune))))
        yield write_blocks(self._folder, UNIGRAMS, shard, blocks)


def words_of(parts: list[Block]) -> Block:
    """Each word once, with its two counts summed over the homes it came from."""
    block = concatenate(parts)
    return summed(Block(block.words, block.ids, block.columns[:2]))


def write_blocks(folder: str, name: str, shard: int, blocks: Iterable[bytes]) -> tuple[str, int]:
    data = b"".join(struct.pack("<Q", len(block)) + block for block in blocks)
    write_bytes(FileSystems.join(folder, "counts", f"{name}-{shard:05d}"), data)
    return name, shard


def read_blocks(folder: str, name: str, shard: int) -> list[Block]:
    with files.open_file(FileSystems.join(folder, "counts", f"{name}-{shard:05d}")) as stream:
        data = stream.read()
    blocks, place = [], 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        blocks.append(unpack(data[place + 8 : place + 8 + size]))
        place += 8 + size
    return blocks


def write_counted(
    folder: str,
    shards: int,
    found: list[tuple[int, Statistics]],
    sizes: list[list[int]],
    paths: list[tuple[str, int]],
    dead: list[int],
    first: list[list[DeadLetter]],
) -> None:
    tree = {
        "shards": shards,
        "statistics": {order: dataclasses.asdict(numbers) for order, numbers in sorted(found)},
        "lines": sizes[0][0],
        "words": sizes[0][1],
        "files": sorted(paths),
        "skipped": {"count": sum(dead), "first": [dataclasses.asdict(letter) for each in first for letter in each]},
    }
    write_bytes(FileSystems.join(folder, COUNTED), json.dumps(tree).encode())


def estimate(
    pipeline: beam.Pipeline, config: NgramConfig, description: dict[str, Any], counted: str, folder: str
) -> None:
    """From the counts in `counted` the model file in `folder`."""
    make_folder(FileSystems.join(folder, "sections"))
    compressed = config.format.endswith(".gz")
    probabilities = Estimate(config, description, counted)
    sections = pipeline | probabilities | "Write" >> beam.Map(write_part, folder, config.order, compressed)
    (
        pipeline
        | "Last" >> beam.Create([FileSystems.join(folder, description["model"])], reshuffle=False)
        | "Model" >> beam.Map(write_model, AsList(sections), description["ngrams"], compressed)
    )


def write_part(part: tuple[int, bytes], folder: str, order: int, compressed: bool) -> Section:
    shard, block = part[0], unpack(part[1])
    progress.count("n-grams written", len(block))
    place = FileSystems.join(folder, "sections")
    return write_section(block, shard, place, highest=block.order == order, compressed=compressed)


def write_model(path: str, sections: list[Section], counts: list[int], compressed: bool) -> None:
    put_together(sections, counts, path, compressed=compressed)


class Estimate(beam.PTransform):
    """-> (shard, block with probability and back-off), each n-gram once"""

    def __init__(self, config: NgramConfig, description: dict[str, Any], counted: str) -> None:
        super().__init__()
        tree = read_json(FileSystems.join(counted, COUNTED))
        self._files = [(name, shard) for name, shard in tree["files"]]
        self._prune, self._discounts = config.prune_thresholds(), description["discounts"]
        self._unigrams = Unigrams.of(Statistics(**description["statistics"][0]), self._discounts[0])
        self._shards, self._counted = tree["shards"], counted

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        shards = {name: [shard for kind, shard in self._files if kind == name] for name in (NGRAMS, UNIGRAMS)}
        weighed = (
            pipeline
            | "NgramShards" >> beam.Create(shards[NGRAMS])
            | "SpreadNgrams" >> beam.Reshuffle()
            | "Weigh" >> beam.FlatMap(self._weigh).with_outputs(CONTEXTS, WORDS, main=NGRAMS)
        )
        words = (
            pipeline
            | "WordShards" >> beam.Create(shards[UNIGRAMS])
            | "SpreadWords" >> beam.Reshuffle()
            | "Words" >> beam.FlatMap(self._words).with_outputs(WORDS, main=UNIGRAMS)
        )
        longer = (
            {NGRAMS: weighed[NGRAMS], CONTEXTS: weighed[CONTEXTS], UNIGRAMS: words[UNIGRAMS]}
            | "SameEnd" >> beam.CoGroupByKey()
            | "Interpolate" >> beam.FlatMapTuple(_interpolate)
        )
        single = (
            {UNIGRAMS: words[WORDS], CONTEXTS: weighed[WORDS]}
            | "SameWord" >> beam.CoGroupByKey()
            | "BackOff" >> beam.MapTuple(_with_backoff)
        )
        return (single, longer) | "All" >> beam.Flatten()

    def _weigh(self, shard: int) -> Iterator[Any]:
        """N-grams and contexts of a context's home, each to its own home."""
        blocks = read_blocks(self._counted, NGRAMS, shard)
        for order in sorted({block.order for block in blocks}):
            these = [block for block in blocks if block.order == order]
            ngrams, contexts = weigh(these, self._discounts[order - 1], self._prune[order - 1])
            progress.count("n-grams weighed", len(ngrams))
            yield from split(ngrams, shards_of(ngrams, home(order), self._shards))
            for item in split(contexts, shards_of(contexts, home(order - 1), self._shards)):
                yield TaggedOutput(WORDS if order == 2 else CONTEXTS, item)

    def _words(self, shard: int) -> Iterator[Any]:
        """Words with their probability: to every home that asked, and once for the model file."""
        parts = read_blocks(self._counted, UNIGRAMS, shard)
        block = words_of(parts)
        block = block.take(kept_ngrams(block, self._prune[0]))
        block = Block(block.words, block.ids, (self._unigrams.probabilities(block),))
        yield TaggedOutput(WORDS, (shard, pack(block)))
        probability = dict(zip((block.words[i] for i in block.ids[:, 0]), block.columns[0].tolist(), strict=True))
        for part in parts:
            wanted = np.array([probability.get(word, np.nan) for word in part.words])[part.ids[:, 0]]
            yield from split(Block(part.words, part.ids, (wanted,)), part.columns[2])


def _interpolate(shard: int, group: dict[str, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
    ngrams, contexts, unigrams = ([unpack(data) for data in group[name]] for name in (NGRAMS, CONTEXTS, UNIGRAMS))
    for block in interpolate(ngrams, contexts, unigrams):
        yield shard, pack(block)


def _with_backoff(shard: int, group: dict[str, Iterable[bytes]]) -> tuple[int, bytes]:
    """Single words and their back-off: 1 where nothing follows."""
    block = concatenate([unpack(data) for data in group[UNIGRAMS]])
    backoff = {UNK: 1.0}
    for data in group[CONTEXTS]:
        context = unpack(data)
        names = (context.words[place] for place in context.ids[:, 0])
        backoff |= zip(names, context.columns[0].tolist(), strict=True)
    found = np.array([backoff.get(block.words[place], 1.0) for place in block.ids[:, 0]])
    return shard, pack(Block(block.words, block.ids, (*block.columns, found)))
