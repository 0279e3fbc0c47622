"""Hugging Face data sets through `datasets`, streamed: local files and folders, what `save_to_disk` wrote, hub names.

A shard (a file of the data set, as a rule) is a piece of work, so that a terabyte is spread over workers and on none
of them in whole. Only its packaged readers of text formats are used: no data set's own code, nothing unpickled.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from data_beam.child import describe
from data_beam.document import DeadLetter
from data_beam.io.files import File, matching
from data_beam.io.jsonl import from_record
from data_beam.io.source import Read, Work, limited
from maxllm.config.curate import InputConfig
from maxllm.config.errors import UserError

FORMATS = ("parquet", "json", "csv", "arrow", "text")
SUFFIXES = {
    **{f".{name}": "json" for name in ("json", "jsonl", "ndjson")},
    **{".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".txt": "text"},
}
HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.,+-]+))?")  # OWNER/NAME or OWNER/NAME:CONFIG


def list_work(config: InputConfig) -> Iterator[Work]:
    """A shard is a piece of work; with a limit all are one, read in order: always the same sample."""
    if config.limit:
        times = tuple(_written(path) for path in config.paths)
        for path in config.paths:
            _streamed(config, path)
        yield Work(tuple(config.paths), times=times)
        return
    for path in config.paths:
        shards = _streamed(config, path).num_shards
        for shard in range(shards):
            yield Work((path,), shard, shards, _written(path))


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    if work.stop:
        (path,) = work.names
        data = _streamed(config, path)
        if data.num_shards != work.stop:
            raise UserError(f"inputs: {path} had {work.stop} shards and has {data.num_shards}; it changed meanwhile")
        yield from _shard(config, data, path, work.start, work.added)
        return
    found = itertools.chain.from_iterable(
        _shard(config, data, path, shard, added)
        for path, added in zip(work.names, work.times, strict=True)
        for data in (_streamed(config, path),)
        for shard in range(data.num_shards)
    )
    yield from limited(found, config.limit)


def _shard(config: InputConfig, data: Any, path: str, shard: int, added: str) -> Iterator[Read]:
    """Its rows. The rest of one that breaks off is lost, and said to be."""
    number = -1
    location = f"{path}:{config.split}:{shard}"
    try:
        for number, record in enumerate(data.shard(data.num_shards, shard) if data.num_shards > 1 else data):
            yield from_record(config, location, number, record, added)
    except Exception as error:  # of whichever reader and network is beneath
        yield DeadLetter(location, "read", f"after {number + 1} records: {describe(error)}")


def listing(config: InputConfig) -> list[str]:
    """What the input is now, for telling whether it changed: files where it is local; of a hub's, its fingerprint."""
    seen = []
    for path in config.paths:
        if _is_local(path):
            seen += [f"{file.path} {file.size} {file.written}" for file in _files(path)]
        else:
            builder = _builder(config, path)
            seen.append(f"{path} {builder.hash or ''} {builder.num_shards if hasattr(builder, 'num_shards') else ''}")
    return seen


def _streamed(config: InputConfig, path: str) -> Any:
    """An IterableDataset over the split; nothing of it is read yet. Raises UserError."""
    builder = _builder(config, path)
    module = type(builder).__module__
    if not any(f".packaged_modules.{name}" in module for name in FORMATS):
        raise UserError(f"inputs: {path} is read by {module}; format hf reads {', '.join(FORMATS)} files only")
    try:
        data = builder.as_streaming_dataset(split="train" if _saved(path) else config.split)
    except (ValueError, FileNotFoundError, NotImplementedError) as error:
        raise UserError(f"inputs: {path} has no split {config.split!r} to stream: {describe(error)}") from error
    return data.decode(False) if hasattr(data, "decode") else data  # images and sound stay bytes


def _builder(config: InputConfig, path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"inputs: format hf reads {path} with Hugging Face's library; pip install 'maxllm[hf]'"
        ) from error
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # what versions before 4 would ask about
    datasets.disable_progress_bars()
    hub = None if _is_local(path) else HUB_NAME.fullmatch(path)
    format = SUFFIXES.get(_suffix(path))
    if not hub and not _is_local(path) and not (format and "://" in path):
        raise UserError(
            f"inputs: there is no {path}; format hf takes files ({', '.join(SUFFIXES)}), folders of them, what "
            f"save_to_disk wrote, and names on the hub such as allenai/c4:en"
        )
    try:
        if saved := _saved(path, config.split):
            return datasets.load_dataset_builder("arrow", data_files=saved)
        if format and not os.path.isdir(path) and not hub:
            return datasets.load_dataset_builder(format, data_files={config.split: path})
        return _of_hub(hub[1], hub[2]) if hub else datasets.load_dataset_builder(path)
    except (FileNotFoundError, ConnectionError, OSError, ValueError, RuntimeError) as error:
        reach = "" if _is_local(path) else "; is the name right, and is the hub in reach?"
        raise UserError(f"inputs: the data set {path} cannot be opened ({describe(error)}){reach}") from error


@functools.lru_cache(64)
def _of_hub(path: str, name: str | None) -> Any:
    """Once per process: it asks the hub for the list of files, and a worker reads many shards."""
    import datasets

    return datasets.load_dataset_builder(path, name)


def _suffix(path: str) -> str:
    return os.path.splitext(re.sub(r"\.(gz|zst|bz2|xz)$", "", path))[1]


def _saved(path: str, split: str = "") -> list[str] | None:
    """The Arrow files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        with open(os.path.join(path, "dataset_dict.json"), encoding="utf-8") as stream:
            splits = json.load(stream)["splits"]
        if split and split not in splits:
            raise UserError(f"inputs: {path} has no split {split!r}; it has {', '.join(splits)}")
        path = os.path.join(path, split or splits[0])
    if not os.path.isfile(os.path.join(path, "state.json")):
        return None
    with open(os.path.join(path, "state.json"), encoding="utf-8") as stream:
        names = [file["filename"] for file in json.load(stream)["_data_files"]]
    return [os.path.join(path, os.path.basename(name)) for name in names]


def _is_local(path: str) -> bool:
    return os.path.exists(path) or ("://" not in path and any(character in path for character in "*?["))


def _files(path: str) -> list[File]:
    return matching([path])


def _written(path: str) -> str:
    return max((file.written for file in _files(path)), default="") if _is_local(path) else ""
