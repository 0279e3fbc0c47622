"""`curate(config)`: the phases of curation, in order."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from data_beam.classify.top_fraction import TopFractions, has_fractions
from data_beam.curation import Filter, Finish, has_decontamination, stages_after_extraction, stages_before_extraction
from data_beam.decontaminate import summary
from data_beam.decontaminate.index import load_index
from data_beam.dedup import index
from data_beam.dedup.driver import find_duplicates
from data_beam.dedup.lines import LineDedup
from data_beam.dedup.semantic import SemanticDuplicates
from data_beam.dedup.substring import RepeatedSubstrings
from data_beam.document import Document
from data_beam.io import files, hf, python_docs, python_source
from data_beam.phases import Job, Phases
from data_beam.run import run_to_documents
from data_beam.stages.perplexity import PerplexityBuckets
from data_beam.verdicts import Part, ReadParts, WriteVerdicts, with_verdicts
from maxllm.config.curate import CurateConfig, InputConfig
from maxllm.config.errors import UserError

FILES = {"contamination.json": "contamination"}  # parts of the report that are files of their own too
RunPhase = Callable[[str, Callable[[beam.Pipeline, Job], Any]], dict[str, Any]]
# The funnel: reasons of drops are `stage.rule`.
STAGES = (
    "read",
    "url",
    "extract",
    "pii",
    "code",
    "language",
    "quality",
    "classifiers",
    "toxicity",
    "perplexity",
    "decontamination",
    "exact_dedup",
    "fuzzy_dedup",
    "line_dedup",
    "substring_dedup",
    "semantic_dedup",
)


def curate(config: CurateConfig, beam_args: Sequence[str] = (), *, force: bool = False) -> dict[str, Any]:
    """The numbers of `report.json`. Does nothing when OUT already holds this config's finished output.

    `force` does it again, and replaces the output of another config. Raises UserError, and RuntimeError when documents
    were lost.
    """
    if not config.inputs:
        raise UserError("inputs is empty; name at least one source of documents, e.g. inputs: [{format: python-docs}]")
    check_paths(config)
    return run_to_documents(
        "curate",
        config,
        config.output,
        fingerprint(config),
        STAGES,
        lambda phases: run_phases(config, phases),
        beam_args,
        force=force,
        extra=lambda manifests: contamination(config, manifests[0]),
        files=lambda report: {name: json.dumps(report[key], indent=1) for name, key in FILES.items() if key in report},
    )


def contamination(config: CurateConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    if "contamination" not in manifest:
        return {}
    return {"contamination": summary.report(manifest["contamination"], load_index(config.decontamination))}


def run_phases(config: CurateConfig, phases: Phases) -> list[dict[str, Any]]:
    """Every phase the config asks for, in order. The manifests of those that end documents' ways: first and last."""
    check_stages(config)
    only = not needs_verdicts(config)
    first = phases.run("filter", lambda root, job: root | "Filter" >> Filter(config, job, only=only))
    if only:
        return [first]
    parts = [Part(number, path) for number, (path, _) in enumerate(first["files"].pop("documents"))]
    parts = pass_verdicts(config, parts, phases.run)
    last = phases.run("write", lambda root, job: root | "Finish" >> Finish(config, parts, job))
    return [first, last]


def pass_verdicts(config: CurateConfig, parts: list[Part], run: RunPhase) -> list[Part]:
    """The phases between: the parts with all verdicts on their documents."""
    if has_duplicates(config):
        parts = find_duplicates(run, read_parts, parts, config.exact_dedup, config.fuzzy_dedup, config.dedup_index)
    for name, make in VERDICTS.items():
        if steps := make(config):
            parts = with_verdicts(parts, run(name, partial(verdicts, parts, steps)))
    return parts


def needs_verdicts(config: CurateConfig) -> bool:
    """Whether anything is asked for that must see more than one document."""
    return has_duplicates(config) or any(make(config) for make in VERDICTS.values())


def has_duplicates(config: CurateConfig) -> bool:
    return config.exact_dedup.enabled or config.fuzzy_dedup.enabled


def read_parts(root: beam.Pipeline, parts: list[Part]) -> beam.PCollection[Document]:
    """What is left of the parts' documents."""
    return root | "Parts" >> beam.Create(parts) | "Spread" >> beam.Reshuffle() | "Documents" >> beam.ParDo(ReadParts())


def verdicts(parts: list[Part], steps: dict[str, beam.PTransform], root: beam.Pipeline, job: Job) -> beam.PCollection:
    """A phase of verdicts: each step looks at all documents that are left."""
    documents = read_parts(root, parts)
    passed = [documents | label >> step for label, step in steps.items()]
    return passed | "Verdicts" >> beam.Flatten() | "Write" >> WriteVerdicts(job)


def scores(config: CurateConfig) -> dict[str, beam.PTransform]:
    steps: dict[str, beam.PTransform] = {}
    if has_fractions(config.classifiers):
        steps["Best"] = TopFractions(config.classifiers)
    if config.perplexity.enabled and config.perplexity.buckets:
        steps["Buckets"] = PerplexityBuckets(config.perplexity)
    return steps


def passages(config: CurateConfig) -> dict[str, beam.PTransform]:
    steps: dict[str, beam.PTransform] = {}
    if config.line_dedup.enabled:
        steps["Lines"] = LineDedup(config.line_dedup)
    if config.substring_dedup.enabled:
        steps["Substrings"] = RepeatedSubstrings(config.substring_dedup)
    return steps


def meaning(config: CurateConfig) -> dict[str, beam.PTransform]:
    return {"Meaning": SemanticDuplicates(config.semantic_dedup)} if config.semantic_dedup.enabled else {}


# Phases that pass verdicts after duplicates are gone, in order: name -> what the config asks of it.
VERDICTS = {"scores": scores, "passages": passages, "meaning": meaning}


def fingerprint(config: CurateConfig) -> str:
    """Of the config without the output's place, and of what the inputs are now: paths, sizes and times, not content."""
    tree = config.model_dump(mode="json")
    tree["output"].pop("path")
    seen = [sys.version] if any(item.format.startswith("python-") for item in config.inputs) else []
    seen += [line for item in config.inputs for line in _listing(item)]
    if has_decontamination(config):
        seen += [f"{file.path} {file.size} {file.written}" for file in files.matching(config.decontamination.paths)]
    data = json.dumps([tree, seen], sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _listing(config: InputConfig) -> list[str]:
    if config.format == "python-docs":
        return python_docs.module_names()
    if config.format == "python-source":
        return [location for location, _ in python_source.source_files()]
    if config.format == "hf":
        return hf.listing(config)
    return [f"{file.path} {file.size} {file.written}" for file in files.matching(config.paths)]


def check_paths(config: CurateConfig) -> None:
    kept = config.dedup_index
    named = [config.output.path, *kept.read, *([kept.write] if kept.write else [])]
    for path in [*named, *(path for item in config.inputs if item.format != "hf" for path in item.paths)]:
        try:
            FileSystems.get_filesystem(path)
        except ValueError:
            scheme = path.partition("://")[0]
            hint = "install maxllm[gcp]" if scheme == "gs" else f"install Beam's extra for {scheme}"
            raise UserError(f"{path}: no file system for {scheme}:// is installed; {hint}") from None


def check_stages(config: CurateConfig) -> None:
    """Makes every stage once here, so that a missing list or model is a sentence now and not a worker's traceback."""
    stages_before_extraction(config)
    stages_after_extraction(config)
    index.check(config.dedup_index, config.exact_dedup, config.fuzzy_dedup)
