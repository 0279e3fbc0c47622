"""The kept index: what one run leaves for later ones to find copies of its documents by, without their texts.

    PATH/index.json     what is in it, and which files; written last
    PATH/exact/*.zst    hash of a text -> oldest document with it
    PATH/url/*.zst      hash of a URL -> oldest document with it
    PATH/bands/*.zst    key of a MinHash band -> oldest document of the component that the band's owner is in
    PATH/labels/*.zst   document -> older one that this run found it connected to, both of older sets

Files of pairs (data_beam/dedup/pairs.py). A run writes what its own documents add; the next one reads all of them.
A folder may be moved: its files are named relative to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsList

from data_beam.dedup.groups import Pair
from data_beam.dedup.nodes import Node, as_old, is_old
from data_beam.dedup.pairs import ReadPairs, WritePairs, files_of_phase
from data_beam.output import make_folder, read_json, write_bytes
from data_beam.phases import Job
from maxllm.config.dedup import DedupIndexConfig, ExactDedupConfig, FuzzyDedupConfig
from maxllm.config.errors import UserError

CATALOGUE = "index.json"
VERSION = 1  # of the hashes and of this layout


def check(kept: DedupIndexConfig, exact: ExactDedupConfig, fuzzy: FuzzyDedupConfig) -> None:
    """Raises UserError when an index cannot be read, or was not made by the settings of this run."""
    wanted = _settings(exact, fuzzy)
    for path in kept.read:
        found = read_json(FileSystems.join(path, CATALOGUE))
        if found is None:
            raise UserError(f"dedup_index.read: {path} holds no {CATALOGUE}; name the folder of a finished run's index")
        for name, settings in wanted.items():
            if found["settings"].get(name) != settings:
                raise UserError(
                    f"dedup_index.read: {path} was written with {name} settings {found['settings'].get(name)}, "
                    f"this run has {settings}; use the same, or write that index anew"
                )


def _settings(exact: ExactDedupConfig, fuzzy: FuzzyDedupConfig) -> dict[str, Any]:
    """What a run's hashes depend on, for each kind of them that it makes."""
    settings: dict[str, Any] = {}
    if exact.enabled:
        settings["exact"] = {"version": VERSION}
    if exact.enabled and exact.url:
        settings["url"] = {"version": VERSION}
    if fuzzy.enabled:
        settings["bands"] = {"version": VERSION, **fuzzy.model_dump(include={"unit", "ngram", "bands", "rows", "seed"})}
    return settings


def files_of(name: str, path: str) -> list[str]:
    """Paths of one kind of an index's files."""
    files = read_json(FileSystems.join(path, CATALOGUE))["files"].get(name, [])
    return [FileSystems.join(path, name, file) for file in files]


class Write(beam.PTransform):
    """(key, node) -> names of files below PATH/NAME that hold (key, node as later runs see it)."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__()
        self.folder = FileSystems.join(path, name)

    def expand(self, pairs: beam.PCollection[Pair]) -> beam.PCollection[str]:
        make_folder(self.folder)
        old = pairs | "as old" >> beam.MapTuple(lambda key, node: (key, as_old(node)))
        return old | "write" >> beam.ParDo(WritePairs(self.folder))


def build(path: str, compared: str, joined: str, root: beam.Pipeline, job: Job) -> None:
    """The job that writes an index of bands: owners of bands from one phase's manifest, their labels from another's."""
    owners = root | "Owners" >> ReadPairs([compared], partial(files_of_phase, "owners"))
    labels = root | "Labels" >> ReadPairs([joined], partial(files_of_phase, "labels"))
    keyed = owners | "ByOwner" >> beam.MapTuple(lambda key, node: (node, _KEY + key)).with_output_types(Pair)
    tagged = labels | "Tagged" >> beam.MapTuple(lambda node, label: (node, _LABEL + label)).with_output_types(Pair)
    bands = (
        (keyed, tagged)
        | "Both" >> beam.Flatten()
        | "Meet" >> beam.GroupByKey()
        | "Labelled" >> beam.FlatMap(_labelled).with_output_types(Pair)
        | "Bands" >> Write(path, "bands")
    )
    merged = labels | "Merged" >> beam.Filter(lambda pair: is_old(pair[0])) | "OldLabels" >> Write(path, "labels")
    end = root | "End" >> beam.Create([0], reshuffle=False)
    end | "Finish" >> beam.Map(_finish_job, job, AsList(bands), AsList(merged))


def _finish_job(_: int, job: Job, bands: list[str], labels: list[str]) -> None:
    job.finish(bands=sorted(bands), labels=sorted(labels))


_KEY, _LABEL = b"\0", b"\1"


def _labelled(group: tuple[Node, Iterable[bytes]]) -> Iterator[Pair]:
    """A document with the keys of bands it owns, and its label if it has one -> (key, label)"""
    node, values = group
    keys = []
    for value in values:
        if value[:1] == _LABEL:
            node = value[1:]
        else:
            keys.append(value[1:])
    for key in keys:
        yield key, node


def finish(path: str, exact: ExactDedupConfig, fuzzy: FuzzyDedupConfig, manifests: list[dict[str, Any]]) -> None:
    """The catalogue, when all files are written. What an earlier index in this folder held is deleted."""
    catalogue = FileSystems.join(path, CATALOGUE)
    before = read_json(catalogue)
    files = {name: each[name] for each in manifests for name in ("exact", "url", "bands") if name in each}
    files["labels"] = next((each["labels"] for each in manifests if "bands" in each), [])
    content = {"version": VERSION, "settings": _settings(exact, fuzzy), "files": files}
    write_bytes(catalogue, json.dumps(content, indent=1).encode())
    stale = [
        FileSystems.join(path, name, file)
        for name, names in (before["files"] if before else {}).items()
        for file in names
        if file not in files.get(name, ())
    ]
    if stale:
        FileSystems.delete(stale)
