"""Batches for training. Batch k is a function of (data sets, mixture and its phases, seed, k), on any number of hosts.

    loader = Loader(config.data, tokenizer_fingerprint=tokenizer.fingerprint)
    for batch in loader.iterate(start_step): ...

Row r of batch k is position k * batch_size + r of an endless stream. The mixture says which source stands there and
which of its rows it is; a seeded bijection shuffles those anew in every epoch. A host makes its own rows only.
With `data.phases` each phase is such a stream, whose sources go on where the phase before left them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import numpy as np

from maxllm.batch import Batch, EncoderDecoderBatch, empty_batch
from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig, SourceConfig
from maxllm.data.corruption import Corruption
from maxllm.data.dataset import Dataset, is_dataset
from maxllm.data.draws import Draw, generator
from maxllm.data.labelled import Labelled, LabelledRows, files_of
from maxllm.data.mixture import shuffled
from maxllm.data.packing import PackedSource
from maxllm.data.phases import Curriculum, Phase, resolve

AHEAD = 2  # batches kept ready, for each worker


class Loader:
    """Raises UserError when a data set is absent, damaged, of another tokenizer or not packed for the length.

    labelled: reads the sources, which are then files with labels (maxllm/data/labelled.py).

    host_index, host_count: which contiguous part of every batch's rows this process makes.
    split: `train` or `held_out`. The latter knows no phases, and leaves out sources without a held-out document.
    steps: of the whole run, for phases that end at a share of it.
    corruption: what becomes of the packed rows; None: next tokens are learned from them as they are.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        tokenizer_fingerprint: str,
        host_index: int = 0,
        host_count: int = 1,
        split: str = "train",
        steps: int | None = None,
        corruption: Corruption | None = None,
        labelled: Labelled | None = None,
    ) -> None:
        if config.batch_size % host_count:
            raise UserError(f"data.batch_size {config.batch_size} is not divisible by the {host_count} hosts")
        check_present(config, labelled=labelled is not None)
        self._config, self._split, self._corruption, self._labelled = config, split, corruption, labelled
        self._host_index, self._host_count = host_index, host_count
        phases = resolve(config if split == "train" else config.model_copy(update={"phases": []}), steps)
        opened = {
            name: labelled.open(config.sources[name].path, split, config.sequence_length)
            if labelled
            else _open(name, config.sources[name], config.sequence_length, split, tokenizer_fingerprint)
            for name in config.drawn
            if split == "train" or config.sources[name].weight
        }
        found = {name: source for name, source in opened.items() if len(source)}
        if not found or (split == "train" and len(found) < len(opened)):
            empty = ", ".join(sorted(opened.keys() - found.keys()))
            more = "add them" if labelled else "tokenize more, or another held_out"
            raise UserError(f"data.sources: {empty} holds no {split} documents; {more}")
        self.names = list(found)  # `Batch.domains` counts in this order
        self._sources: list[PackedSource | LabelledRows] = list(found.values())
        columns = [sorted(config.sources).index(name) for name in found]
        phases = [phase._replace(weights=tuple(phase.weights[column] for column in columns)) for phase in phases]
        self._curriculum = Curriculum(phases, config.sequence_length)

    @property
    def phases(self) -> list[Phase]:
        """At least one; their weights are those of `names`."""
        return self._curriculum.phases

    def phase(self, k: int) -> Phase:
        """The one that batch k is in."""
        return self.phases[self._curriculum.number(k)]

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many rows as all sources together; at least 1."""
        return max(1, sum(map(len, self._sources)) // self._config.batch_size)

    def epochs_before(self, k: int) -> dict[str, float]:
        """How often batches 0 to k - 1 went through each source."""
        rows = self._curriculum.rows_before(k).tolist()
        return {name: n / len(source) for name, n, source in zip(self.names, rows, self._sources, strict=True)}

    def batch(self, k: int) -> Batch | EncoderDecoderBatch:
        """This host's rows of batch k, counted from 0: NumPy arrays `[its phase's batch_size / host_count, length]`."""
        batch, places = self._packed(k)
        if self._corruption is None:
            return batch
        draws = [
            Draw(
                generator(self._config.seed, self._split, k, number),
                functools.partial(self._other_row, source, row, part, batch.tokens.shape[1]),
            )
            for number, source, row, part in places
        ]
        return self._corruption(batch, draws)

    def _other_row(self, source: int, row: int, part: int, length: int, random: np.random.Generator) -> Batch:
        """One row of the same source, drawn by `random`, of other documents if ten draws find such a one (as BERT)."""
        rows, parts = self._sources[source], self._config.sequence_length // length
        assert isinstance(rows, PackedSource)
        own = rows.row(row, part, parts)
        for _ in range(10):
            drawn = int(random.integers(len(rows)))
            theirs = rows.row(drawn, part, parts)
            shared = theirs.shard == own.shard and np.isin(theirs.pieces["record"], own.pieces["record"]).any()
            if len(theirs.pieces) and not shared:
                break
        batch = empty_batch(1, length)
        rows.fill(batch, [0], [drawn if len(theirs.pieces) else row], [part])
        return batch

    def _packed(self, k: int) -> tuple[Batch, list[tuple[int, ...]]]:
        """Rows as they were packed; and of each its number in the global batch, its source, its row and part there."""
        phase = self.phase(k)
        host_rows = np.arange(phase.batch_size).reshape(self._host_count, -1)[self._host_index]
        sources, rows, parts = self._locate(k, host_rows)
        batch = empty_batch(len(host_rows), phase.sequence_length)._replace(domains=sources[:, None].astype(np.int32))
        batch = self._labelled.prepared(batch) if self._labelled else batch
        for number, source in enumerate(self._sources):
            places = np.flatnonzero(sources == number)
            if len(places):
                source.fill(batch, places.tolist(), rows[places].tolist(), parts[places].tolist())
        return batch, list(zip(*(x.tolist() for x in (host_rows, sources, rows, parts)), strict=True))

    def document_ids(self, k: int) -> list[str]:
        """Ids of the documents in batch k, on all hosts, in order, each once."""
        cut = self._curriculum.parts(self._curriculum.number(k))
        ids = [
            name
            for source, row, part in zip(*self._locate(k, np.arange(self.phase(k).batch_size)), strict=True)
            for name in self._sources[source].document_ids(int(row), int(part), cut)
        ]
        return list(dict.fromkeys(ids))

    def iterate(self, start_step: int = 0) -> Iterator[Batch | EncoderDecoderBatch]:
        """Batches from `start_step` on, without end, made ahead by a thread or by `config.workers` processes."""
        import grain

        steps = grain.MapDataset.range(start_step, sys.maxsize).map(self.batch)
        if not self._config.workers:
            return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)))
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers read their settings from there
            flags.FLAGS.mark_as_parsed()
        ahead = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        options = grain.MultiprocessingOptions(num_workers=self._config.workers, per_worker_buffer_size=AHEAD)
        return iter(ahead.mp_prefetch(options))

    def _locate(self, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The source of each of batch k's `rows`, the packed row in it, and which part of that."""
        sources, elements, parts = self._curriculum.locate(k, rows)
        found = np.empty_like(elements)
        for number, source in enumerate(self._sources):
            at = sources == number
            key = (self._config.seed, self._split, self.names[number])
            found[at] = shuffled(elements[at], len(source), key)
        return sources, found, parts


def check_present(config: DataConfig, *, labelled: bool = False) -> None:
    """Raises UserError naming the setting of every source that is drawn from and has no data set at its path."""
    if not config.drawn:
        raise UserError("data.sources is empty, or every weight 0; name a token data set: data.sources.mine.path=...")
    paths = {name: config.sources[name].path for name in config.drawn}
    if labelled:
        for name, path in paths.items():
            if not files_of(path, "train"):
                raise UserError(
                    f"data.sources.{name}.path: no JSON lines with labels lie at {path}; give a file, or a folder with "
                    "train.jsonl and held_out.jsonl (docs/models/objectives.md says what a line holds)"
                )
    absent = {name: path for name, path in paths.items() if not labelled and not is_dataset(path)}
    if absent:
        listed = ", ".join(f"data.sources.{name}.path ({path})" for name, path in absent.items())
        first = next(iter(absent))
        raise UserError(
            f"no finished token data set at {listed}; write one with `maxllm tokenize`, say where it is with "
            f"data.sources.{first}.path=..., or leave the source out with data.sources.{first}.weight=0"
        )


def _open(name: str, source: SourceConfig, length: int, split: str, fingerprint: str) -> PackedSource:
    dataset = Dataset(source.path)
    if dataset.tokenizer_fingerprint != fingerprint:
        raise UserError(
            f"data.sources.{name}: {source.path} was written with tokenizer {dataset.tokenizer_fingerprint[:12]}, the "
            f"model's is {fingerprint[:12]}; tokenize the documents again with the model's: tokenizer.path=..."
        )
    if source.source is not None and source.source not in dataset.sources(split) and split == "train":
        raise UserError(
            f"data.sources.{name}: {source.path} has no source {source.source}; it has {dataset.sources(split)}"
        )
    entries = dataset.shards(split, source.source)
    dataset.check(entries, length)
    return PackedSource(dataset, entries, length)
