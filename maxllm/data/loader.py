"""Batches for training. Batch k is a function of (data sets, mixture, seed, k), whatever the number of hosts.

    loader = Loader(config.data, tokenizer_fingerprint=tokenizer.fingerprint)
    for batch in loader.iterate(start_step): ...

Row r of batch k is position k * batch_size + r of an endless stream. The mixture says which source stands there and
which of its rows it is; a seeded bijection shuffles those anew in every epoch. A host makes its own rows only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from maxllm.batch import Batch, empty_batch
from maxllm.config.errors import UserError
from maxllm.config.train import DataConfig, SourceConfig
from maxllm.data.dataset import Dataset
from maxllm.data.mixture import Mixture, shuffled
from maxllm.data.packing import PackedSource

AHEAD = 2  # batches kept ready, for each worker


class Loader:
    """Raises UserError when a data set is absent, damaged, of another tokenizer or not packed for the length.

    host_index, host_count: which contiguous part of every batch's rows this process makes.
    split: `train` or `held_out`. Sources without a held-out document are left out of the latter.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        tokenizer_fingerprint: str,
        host_index: int = 0,
        host_count: int = 1,
        split: str = "train",
    ) -> None:
        if not config.sources:
            raise UserError("data.sources is empty; name a token data set, e.g. data.sources.mine.path=runs/tokens")
        if config.batch_size % host_count:
            raise UserError(f"data.batch_size {config.batch_size} is not divisible by the {host_count} hosts")
        self._config, self._split = config, split
        self._host_rows = np.arange(config.batch_size).reshape(host_count, -1)[host_index]
        opened = {
            name: _open(name, source, config.sequence_length, split, tokenizer_fingerprint)
            for name, source in sorted(config.sources.items())
        }
        found = {name: source for name, source in opened.items() if len(source)}
        if not found or (split == "train" and len(found) < len(opened)):
            empty = ", ".join(sorted(opened.keys() - found.keys()))
            raise UserError(f"data.sources: {empty} holds no {split} documents; tokenize more, or another held_out")
        self._names = list(found)
        self._sources = list(found.values())
        self._mixture = Mixture([config.sources[name].weight for name in found])

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many rows as all sources together; at least 1."""
        return max(1, sum(map(len, self._sources)) // self._config.batch_size)

    def batch(self, k: int) -> Batch:
        """This host's rows of batch k, counted from 0: NumPy arrays `[batch_size / host_count, sequence_length]`."""
        batch = empty_batch(len(self._host_rows), self._config.sequence_length)
        sources, rows = self._locate(k, self._host_rows)
        for number, source in enumerate(self._sources):
            places = np.flatnonzero(sources == number)
            if len(places):
                source.fill(batch, places.tolist(), rows[places].tolist())
        return batch

    def document_ids(self, k: int) -> list[str]:
        """Ids of the documents in batch k, on all hosts, in order, each once."""
        sources, rows = self._locate(k, np.arange(self._config.batch_size))
        ids = [
            name
            for source, row in zip(sources, rows, strict=True)
            for name in self._sources[source].document_ids(int(row))
        ]
        return list(dict.fromkeys(ids))

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
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

    def _locate(self, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source and the row in it of each of batch k's `rows`."""
        sources, elements = self._mixture.locate(k * self._config.batch_size + rows)
        found = np.empty_like(elements)
        for number, source in enumerate(self._sources):
            at = sources == number
            key = (self._config.seed, self._split, self._names[number])
            found[at] = shuffled(elements[at], len(source), key)
        return sources, found


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
