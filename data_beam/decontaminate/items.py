"""Evaluation items out of JSON lines files, named so that a report can point at them: BENCHMARK:LINE:KEY."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from data_beam.stages.files import expand, read_lines
from maxllm.config.errors import UserError

SETTING = "decontamination.paths"


class Item(NamedTuple):
    """One text of an evaluation item, by its file's benchmark, its line (from 1) and its key."""

    benchmark: str
    line: int
    key: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.benchmark}:{self.line}:{self.key}"


def item_files(patterns: Iterable[str]) -> dict[str, str]:
    """benchmark -> file: called after the file, and after its folders too where several files have one name."""
    paths = list(dict.fromkeys(path for pattern in patterns for path in expand(pattern, SETTING)))
    parts = {path: _without_suffix(path).replace("\\", "/").split("/") for path in paths}
    names: dict[str, str] = {}
    for path in paths:
        for length in range(1, len(parts[path]) + 1):
            tail = parts[path][-length:]
            if all(other == path or parts[other][-length:] != tail for other in paths):
                break
        names["/".join(tail).lstrip("/")] = path
    return names


def _without_suffix(path: str) -> str:
    path = path.removesuffix(".gz")
    return path.removesuffix(".jsonl").removesuffix(".json")


def read_records(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, object) of a JSON lines file, `.gz` or plain. Raises UserError."""
    for number, line in enumerate(read_lines(path, SETTING), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{SETTING}: {path} line {number} is not JSON ({error}); one object a line.") from error
        if not isinstance(record, dict):
            raise UserError(f"{SETTING}: {path} line {number} is not an object; one object a line.")
        yield number, record


def read_items(patterns: Sequence[str], text_keys: Sequence[str]) -> Iterator[Item]:
    """An Item for each text under one of the keys; of a list of texts, KEY[0], KEY[1], ..."""
    for benchmark, path in item_files(patterns).items():
        found = False
        seen: set[str] = set()
        for number, record in read_records(path):
            seen.update(record)
            for key in text_keys:
                for name, text in _texts(key, record.get(key)):
                    found = True
                    yield Item(benchmark, number, name, text)
        if not found:
            raise UserError(
                f"decontamination.text_keys: no line of {path} has any of {list(text_keys)}; "
                f"its keys are {sorted(seen)}."
            )


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        yield from ((f"{key}[{place}]", text) for place, text in enumerate(value) if isinstance(text, str))
