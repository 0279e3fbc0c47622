"""Duplicates in as many jobs as they need: joining goes on until it is verified that nothing is left to join.

One job reads the documents, compares them and does the first rounds of joining; where these were enough, which they
are unless near duplicates form long chains, that is all. Else its edges are in files, and jobs that read nothing else
follow. Every job is a phase: a run that was killed goes on after the last one that was finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from data_beam.dedup import index
from data_beam.dedup.components import Edge, Rounds, Verify
from data_beam.dedup.exact import Drops, Fingerprints
from data_beam.dedup.groups import Pair, Smallest
from data_beam.dedup.minhash import REASON, BandKeys
from data_beam.dedup.pairs import ReadPairs, WritePairs, files_of_phase
from data_beam.dedup.urls import Urls
from data_beam.document import Document
from data_beam.phases import Job
from data_beam.verdicts import Part, by_part, with_verdicts, write_part
from maxllm.config.dedup import DedupIndexConfig, ExactDedupConfig, FuzzyDedupConfig

Manifest = dict[str, Any]
Run = Callable[[str, Callable[[beam.Pipeline, Job], Any]], Manifest]
Read = Callable[[beam.Pipeline, list[Part]], beam.PCollection[Document]]


def find_duplicates(
    run: Run,
    read: Read,
    parts: list[Part],
    exact: ExactDedupConfig,
    fuzzy: FuzzyDedupConfig,
    kept: DedupIndexConfig | None = None,
) -> list[Part]:
    """The parts with verdicts on duplicates. `run` is Phases.run, `read` gives what is left of the parts' documents.

    Documents with the URL of an older one go first and are nobody's original afterwards. Raises UserError for an index
    that does not fit the settings.
    """
    kept = kept or DedupIndexConfig()
    index.check(kept, exact, fuzzy)
    compare = _Compare(exact, fuzzy, kept)
    manifests: list[Manifest] = []

    def phase(name: str, build: Callable[[beam.Pipeline, Job], Any]) -> Manifest:
        manifests.append(run(name, build))
        return manifests[-1]

    if exact.enabled and exact.url:
        parts = with_verdicts(parts, phase("urls", partial(compare.urls, partial(read, parts=parts))))
    if exact.enabled or fuzzy.enabled:
        joined = phase("duplicates", partial(compare.texts, partial(read, parts=parts)))
        compared = joined
        parts = with_verdicts(parts, joined)
        while joined["violations"]:
            joined = phase(f"duplicates-{len(manifests)}", partial(compare.join, joined["manifest"]))
            parts = with_verdicts(parts, joined)
        if kept.write and fuzzy.enabled:
            phase("index", partial(index.build, kept.write, compared["manifest"], joined["manifest"]))
    if kept.write:
        index.finish(kept.write, exact, fuzzy, manifests)
    return parts


class _Compare:
    """The jobs, each a function (pipeline, job) that writes verdicts and what the next job needs."""

    def __init__(self, exact: ExactDedupConfig, fuzzy: FuzzyDedupConfig, kept: DedupIndexConfig) -> None:
        self.exact, self.fuzzy, self.kept = exact, fuzzy, kept

    def urls(self, read: Callable[[beam.Pipeline], beam.PCollection[Document]], root: beam.Pipeline, job: Job) -> None:
        keys = read(root) | "Urls" >> Urls()
        drops, files = self._same(root, "url", keys, job)
        _nothing_to_join(root) | "End" >> _End(job, [drops | "UrlDrops" >> Drops("exact_dedup.url")], files)

    def texts(self, read: Callable[[beam.Pipeline], beam.PCollection[Document]], root: beam.Pipeline, job: Job) -> None:
        documents = read(root)
        verdicts, files = [], {}
        if self.exact.enabled:
            keys = documents | "Fingerprints" >> Fingerprints()
            drops, files = self._same(root, "exact", keys, job)
            verdicts.append(drops | "ExactDrops" >> Drops("exact_dedup.duplicate"))
        if not self.fuzzy.enabled:
            _nothing_to_join(root) | "End" >> _End(job, verdicts, files)
            return
        bands = documents | "Bands" >> BandKeys(self.fuzzy)
        edges, owners = self._smallest(root, "bands", bands)
        if owners is not None:
            files["owners"] = owners | "Owners" >> beam.ParDo(WritePairs(job.path("owners")))
        self._join(root, self._with_index(root, "labels", edges), job, verdicts, files)

    def join(self, before: str, root: beam.Pipeline, job: Job) -> None:
        edges = root | "Edges" >> ReadPairs([before], partial(files_of_phase, "edges"))
        self._join(root, edges, job, [], {})

    def _same(
        self, root: beam.Pipeline, name: str, keys: beam.PCollection[Pair], job: Job
    ) -> tuple[beam.PCollection[Pair], dict[str, beam.PCollection[str]]]:
        """(duplicate, oldest), and the files of the index"""
        pairs, owners = self._smallest(root, name, keys)
        if owners is None:
            return pairs, {}
        return pairs, {name: owners | f"Index {name}" >> index.Write(self.kept.write, name)}

    def _smallest(
        self, root: beam.Pipeline, name: str, keys: beam.PCollection[Pair]
    ) -> tuple[beam.PCollection[Edge], beam.PCollection[Pair] | None]:
        """(document, oldest with the same key), and for an index to be written (key, its oldest)"""
        everything = self._with_index(root, name, keys)
        if self.kept.write:
            return everything | f"Same {name}" >> Smallest(owners=True)
        return everything | f"Same {name}" >> Smallest(), None

    def _with_index(self, root: beam.Pipeline, name: str, pairs: beam.PCollection[Pair]) -> beam.PCollection[Pair]:
        if not self.kept.read:
            return pairs
        old = root | f"Old {name}" >> ReadPairs(list(self.kept.read), partial(index.files_of, name))
        return (pairs, old) | f"Old and new {name}" >> beam.Flatten()

    def _join(
        self,
        root: beam.Pipeline,
        edges: beam.PCollection[Edge],
        job: Job,
        verdicts: list[beam.PCollection],
        files: dict[str, beam.PCollection[str]],
    ) -> None:
        edges = edges | "Rounds" >> Rounds(self.fuzzy.rounds)
        labels, violations = edges | "Verify" >> Verify()
        done = AsSingleton(violations)
        labels = labels | "If done" >> beam.FlatMap(_if_done, done).with_output_types(Edge)
        again = edges | "If not done" >> beam.FlatMap(_if_not_done, done).with_output_types(Edge)
        files = {**files, "edges": again | "WriteEdges" >> beam.ParDo(WritePairs(job.path("edges")))}
        if self.kept.write:
            files["labels"] = labels | "WriteLabels" >> beam.ParDo(WritePairs(job.path("labels")))
        violations | "End" >> _End(job, [*verdicts, labels | "FuzzyDrops" >> Drops(REASON)], files)


def _if_done(edge: Edge, violations: int) -> Iterator[Edge]:
    if not violations:
        yield edge


def _if_not_done(edge: Edge, violations: int) -> Iterator[Edge]:
    if violations:
        yield edge


def _nothing_to_join(root: beam.Pipeline) -> beam.PCollection[int]:
    return root | "Nothing to join" >> beam.Create([0], reshuffle=False)


class _End(beam.PTransform):
    """How many nodes are not joined yet -> the job's end: verdicts in files, a manifest that names all files."""

    def __init__(self, job: Job, verdicts: list[beam.PCollection], files: dict[str, beam.PCollection[str]]) -> None:
        super().__init__()
        self.job, self.verdicts, self.files = job, verdicts, files

    def expand(self, violations: beam.PCollection[int]) -> beam.PCollection:
        written = (
            self.verdicts
            | "Verdicts" >> beam.Flatten()
            | "ByPart" >> beam.Map(by_part)
            | "Parts" >> beam.GroupByKey()
            | "Write" >> beam.Map(write_part, self.job)
        )
        named = [names | f"Named {kind}" >> beam.Map(_named, kind) for kind, names in self.files.items()]
        files = named | "Files" >> beam.Flatten(pipeline=violations.pipeline)
        return violations | "Finish" >> beam.Map(_finish, self.job, AsList(written), list(self.files), AsList(files))


def _named(name: str, kind: str) -> tuple[str, str]:
    return kind, name


def _finish(
    violations: int, job: Job, verdicts: list[tuple[int, str]], kinds: list[str], files: list[tuple[str, str]]
) -> None:
    job.finish(
        verdicts={str(part): path for part, path in verdicts},
        violations=violations,
        manifest=job.manifest,
        folder=job.folder,
        **{kind: sorted(name for each, name in files if each == kind) for kind in kinds},
    )
