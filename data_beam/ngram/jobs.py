"""The two Beam jobs behind `train`. Elements between workers are (shard, packed block)."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
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
from data_beam.output import write_bytes
from data_beam.phases import Job
from maxllm.config.perplexity import NgramConfig, PreparationConfig

NGRAMS, UNIGRAMS, CONTEXTS, WORDS = "ngrams", "unigrams", "contexts", "words"
STATISTICS, SIZES, DEAD = "statistics", "sizes", "dead"
SHOWN_FAILURES = 20


def count(
    pipeline: beam.Pipeline,
    config: NgramConfig,
    tokenizer: str | None,
    inputs: list[files.File],
    shards: int,
    job: Job,
) -> None:
    """Leaves in files the n-grams of each context's home, with both counts, and in the manifest the statistics."""
    prune = config.prune_thresholds()
    read = (
        pipeline
        | "Files" >> beam.Create([file.path for file in inputs])
        | "Spread" >> beam.Reshuffle()
        | "Count" >> beam.ParDo(Count(config, tokenizer, shards)).with_outputs(SIZES, DEAD, main=NGRAMS)
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
        | "WriteWords" >> beam.ParDo(WriteUnigrams(job, prune[0])).with_outputs(STATISTICS, main="paths")
    )
    ngrams = (
        adjust[NGRAMS]
        | "SameContext" >> beam.GroupByKey()
        | "WriteNgrams" >> beam.MapTuple(lambda shard, blocks: write_blocks(job, NGRAMS, shard, blocks))
    )
    found = (
        (adjust[STATISTICS], unigrams[STATISTICS])
        | "AllStatistics" >> beam.Flatten()
        | "Statistics" >> beam.CombinePerKey(lambda parts: sum(parts, start=Statistics(*[0] * 11)))
    )
    (
        pipeline
        | "Last" >> beam.Create([job], reshuffle=False)
        | "Counted"
        >> beam.Map(
            finish_count,
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

    def __init__(self, config: NgramConfig, tokenizer: str | None, shards: int) -> None:
        """`tokenizer`: where the workers find it."""
        self._order, self._shards = config.order, shards
        self._config = PreparationConfig(normalisation=config.preparation.normalisation, tokenizer=tokenizer)

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
    def __init__(self, job: Job, prune: int) -> None:
        self._job, self._prune = job, prune

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        shard, blocks = element
        blocks = list(blocks)
        block = words_of([unpack(data) for data in blocks])
        yield TaggedOutput(STATISTICS, (1, statistics(block.columns[0], kept_ngrams(block, self._prune))))
        yield write_blocks(self._job, UNIGRAMS, shard, blocks)


def words_of(parts: list[Block]) -> Block:
    """Each word once, with its two counts summed over the homes it came from."""
    block = concatenate(parts)
    return summed(Block(block.words, block.ids, block.columns[:2]))


def write_blocks(job: Job, name: str, shard: int, blocks: Iterable[bytes]) -> tuple[str, int, str]:
    path = job.path(f"{name}-{shard:05d}")
    write_bytes(path, b"".join(struct.pack("<Q", len(block)) + block for block in blocks))
    return name, shard, path


def read_blocks(path: str) -> list[Block]:
    with files.open_file(path) as stream:
        data = stream.read()
    blocks, place = [], 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        blocks.append(unpack(data[place + 8 : place + 8 + size]))
        place += 8 + size
    return blocks


def finish_count(
    job: Job,
    shards: int,
    found: list[tuple[int, Statistics]],
    sizes: list[list[int]],
    paths: list[tuple[str, int, str]],
    dead: list[int],
    first: list[list[DeadLetter]],
) -> None:
    job.finish(
        shards=shards,
        statistics=[dataclasses.asdict(numbers) for _, numbers in sorted(found, key=lambda item: item[0])],
        lines=sizes[0][0],
        words=sizes[0][1],
        files=sorted(paths),
        skipped={"count": sum(dead), "first": [dataclasses.asdict(letter) for each in first for letter in each]},
    )


def estimate(
    pipeline: beam.Pipeline, config: NgramConfig, description: dict[str, Any], counted: dict[str, Any], job: Job
) -> None:
    """From the manifest of `count` the model file, named in the manifest."""
    probabilities = Estimate(config, description, counted)
    highest, compressed = config.order, config.format.endswith(".gz")
    sections = pipeline | probabilities | "Write" >> beam.Map(write_part, job, highest, compressed)
    (
        pipeline
        | "Last" >> beam.Create([job], reshuffle=False)
        | "Model" >> beam.Map(finish_model, AsList(sections), description, compressed)
    )


def write_part(part: tuple[int, bytes], job: Job, highest: int, compressed: bool) -> Section:
    shard, block = part[0], unpack(part[1])
    progress.count("n-grams written", len(block))
    return write_section(block, shard, job.folder, highest=block.order == highest, compressed=compressed)


def finish_model(job: Job, sections: list[Section], description: dict[str, Any], compressed: bool) -> None:
    path = job.path(description["model"])
    put_together(sections, description["ngrams"], path, compressed=compressed)
    job.finish(model=path)


class Estimate(beam.PTransform):
    """-> (shard, block with probability and back-off), each n-gram once"""

    def __init__(self, config: NgramConfig, description: dict[str, Any], counted: dict[str, Any]) -> None:
        super().__init__()
        self._files = counted["files"]
        self._prune, self._discounts = config.prune_thresholds(), description["discounts"]
        self._unigrams = Unigrams.of(Statistics(**description["statistics"][0]), self._discounts[0])
        self._shards = counted["shards"]

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        paths = {
            name: [(shard, path) for kind, shard, path in self._files if kind == name] for name in (NGRAMS, UNIGRAMS)
        }
        weighed = (
            pipeline
            | "NgramShards" >> beam.Create(paths[NGRAMS])
            | "SpreadNgrams" >> beam.Reshuffle()
            | "Weigh" >> beam.FlatMapTuple(self._weigh).with_outputs(CONTEXTS, WORDS, main=NGRAMS)
        )
        words = (
            pipeline
            | "WordShards" >> beam.Create(paths[UNIGRAMS])
            | "SpreadWords" >> beam.Reshuffle()
            | "Words" >> beam.FlatMapTuple(self._words).with_outputs(WORDS, main=UNIGRAMS)
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

    def _weigh(self, shard: int, path: str) -> Iterator[Any]:
        """N-grams and contexts of a context's home, each to its own home."""
        blocks = read_blocks(path)
        for order in sorted({block.order for block in blocks}):
            these = [block for block in blocks if block.order == order]
            ngrams, contexts = weigh(these, self._discounts[order - 1], self._prune[order - 1])
            progress.count("n-grams weighed", len(ngrams))
            yield from split(ngrams, shards_of(ngrams, home(order), self._shards))
            for item in split(contexts, shards_of(contexts, home(order - 1), self._shards)):
                yield TaggedOutput(WORDS if order == 2 else CONTEXTS, item)

    def _words(self, shard: int, path: str) -> Iterator[Any]:
        """Words with their probability: to every home that asked, and once for the model file."""
        parts = read_blocks(path)
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
