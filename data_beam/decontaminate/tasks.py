"""Evaluation tasks as item files: made on the launching machine, so that workers need no lm-eval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from apache_beam.io.filesystems import FileSystems

from data_beam.decontaminate.items import read_records
from data_beam.io import files
from data_beam.output import make_folder, write_bytes
from maxllm.config.decontaminate import ItemsConfig
from maxllm.config.errors import UserError

Config = TypeVar("Config", bound=ItemsConfig)
Loader = Callable[[str], Sequence[dict[str, Any]]]  # task -> its test records
SPLITS = ("test", "validation", "dev")


def with_tasks(config: Config, folder: str, load: Loader) -> Config:
    """`config` with its tasks written to FOLDER/.items/*/TASK.jsonl, named in `paths`. Workers must reach `folder`.

    A line is {"text": [texts to look for], "record": the task's own record}. Raises UserError.
    """
    if not config.tasks:
        return config
    if "text" not in config.text_keys:
        raise UserError("text_keys must hold 'text' when tasks are given: their texts are written under it")
    paths = []
    for task in config.tasks:
        records = _local(config.data_files[task]) if task in config.data_files else load(task)
        items = [{"text": texts(record), "record": record} for record in records]
        data = b"".join(json.dumps(item, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for item in items)
        place = FileSystems.join(folder, ".items", hashlib.sha256(data).hexdigest()[:16])
        make_folder(place)
        paths.append(FileSystems.join(place, f"{task.replace('/', '_')}.jsonl"))
        write_bytes(paths[-1], data)
    return config.model_copy(update={"paths": [*config.paths, *paths], "tasks": [], "data_files": {}})


def _local(path: str) -> list[dict[str, Any]]:
    """Of a JSON lines file, or of a folder of them named after splits, as `maxllm eval --data` takes."""
    found = files.matching([path])
    if len(found) > 1:
        by_split = {FileSystems.split(file.path)[1].partition(".")[0]: file for file in found}
        split = next((split for split in SPLITS if split in by_split), None)
        if split is None:
            raise UserError(f"data_files: {path} has no test.jsonl or validation.jsonl (.gz as well)")
        found = [by_split[split]]
    return [record for _, record in read_records(found[0].path)]


def texts(record: dict[str, Any]) -> list[str]:
    """A record's own strings, as lm-eval's prompts would put words such as "Question:" around them. Addresses, which
    pages quote without quoting the item, are none."""
    return [
        value for value in record.values() if isinstance(value, str) and not value.startswith(("http://", "https://"))
    ]
