"""Prepared TFDS data sets in the array_record format, through `tfds.data_source`: no TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from data_beam.io.files import matching
from data_beam.io.jsonl import from_record
from data_beam.io.source import Read, Work
from maxllm.config.curate import InputConfig
from maxllm.config.errors import UserError

RECORDS_PER_WORK = 1000


def list_work(config: InputConfig) -> Iterator[Work]:
    """`paths` are prepared versions, e.g. DATA_DIR/wikipedia/20230601.en/1.0.0."""
    for path in config.paths:
        added = max(file.written for file in matching([path]))
        count = len(_source(config, path))
        count = min(count, config.limit) if config.limit else count
        for start in range(0, count, RECORDS_PER_WORK):
            yield Work((path,), start, min(start + RECORDS_PER_WORK, count), added)


def _source(config: InputConfig, path: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        return builder.as_data_source(split=config.split)
    except (ValueError, NotImplementedError, FileNotFoundError, KeyError) as error:
        raise UserError(
            f"inputs: {path} is not a TFDS data set prepared as array_record with a split {config.split!r} "
            f"(prepare it with file_format='array_record'): {error}"
        ) from error


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    (path,) = work.names
    source = _source(config, path)
    for number in itertools.islice(range(len(source)), work.start, work.stop):
        yield from_record(config, f"{path}/{config.split}", number, source[number], work.added)
