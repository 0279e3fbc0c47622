"""`curate(config)`: run the phases, check their count, put the output in place, report."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from data_beam import progress
from data_beam.curation import BETWEEN, Filter, Finish, stages_after_extraction, stages_before_extraction
from data_beam.dedup.exact import ExactDuplicates
from data_beam.dedup.minhash import FuzzyDuplicates
from data_beam.io import files, python_docs, python_source
from data_beam.output import Output, read_json, write_bytes
from data_beam.phases import Job, Phases, TemplateWritten
from data_beam.report.html import render
from data_beam.report.summary import assert_conserved, merged
from data_beam.verdicts import Part, ReadParts, WriteVerdicts, with_verdicts
from maxllm.config.curate import CurateConfig, InputConfig
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
FOLDERS = ("documents", "rejected", "dead")
# The funnel: reasons of drops are `stage.rule`.
STAGES = (
    "read",
    "url",
    "extract",
    "pii",
    "language",
    "quality",
    "code",
    "classifier",
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
    started = time.monotonic()
    check_paths(config)
    output = Output(config.output.path, fingerprint(config))
    finished = output.finished()
    if finished == output.fingerprint and not force:
        logger.info(
            "curate: %s is finished and the config is the same: nothing to do (--force does it again)", output.path
        )
        return read_json(output.join("report.json"))
    if finished and finished != output.fingerprint and not force:
        raise UserError(
            f"output.path: {output.path} holds the finished output of another config or other inputs; "
            f"give another output.path, or --force to replace it"
        )
    if force:
        output.discard_staging()
    check_stages(config)
    progress.reset()
    phases = Phases(output, beam_args)
    try:
        manifests = run_phases(config, phases)
    except TemplateWritten as template:
        logger.info("curate: wrote the template %s; when its job is done, run the same command for the next", template)
        return {"template": str(template)}
    if not phases.jobs:
        logger.info("curate: an earlier run wrote everything and was stopped; putting its output in place")
    summary = merged([manifest["summary"] for manifest in manifests])
    read = sum(manifest["read"] for manifest in manifests)
    assert_conserved(read, summary)
    moves = places(manifests, config)
    report = make_report(config, output, read, summary, sorted(moves), time.monotonic() - started)
    for name, content in (
        ("report.json", json.dumps(report, indent=1, ensure_ascii=False)),
        ("report.html", render(report)),
    ):
        moves[name] = FileSystems.join(phases.folder, name)
        write_bytes(moves[name], content.encode())
    output.commit(moves, FOLDERS)
    for line in lines(report):
        logger.info("%s", line)
    return report


def run_phases(config: CurateConfig, phases: Phases) -> list[dict[str, Any]]:
    """Every phase the config asks for, in order. The manifests of those that end documents' ways: first and last."""
    later = [(name, steps) for name, make in VERDICTS.items() if (steps := make(config))]
    first = phases.run("filter", lambda root, job: root | "Filter" >> Filter(config, job, only=not later))
    if not later:
        return [first]
    paths = [path for path, _ in first["files"]["documents"]]
    parts = [Part(number, path) for number, path in enumerate(paths)]
    for name, steps in later:
        parts = with_verdicts(parts, phases.run(name, partial(verdicts, parts, steps)))
    last = phases.run("write", lambda root, job: root | "Finish" >> Finish(config, parts, job))
    first["files"].pop("documents")
    return [first, last]


def verdicts(parts: list[Part], steps: dict[str, beam.PTransform], root: beam.Pipeline, job: Job) -> beam.PCollection:
    """A phase of verdicts: each step looks at all documents that are left."""
    documents = (
        root | "Parts" >> beam.Create(parts) | "Spread" >> beam.Reshuffle() | "Documents" >> beam.ParDo(ReadParts())
    )
    passed = [documents | label >> step for label, step in steps.items()]
    return passed | "Verdicts" >> beam.Flatten() | "Write" >> WriteVerdicts(job)


def duplicates(config: CurateConfig) -> dict[str, beam.PTransform]:
    steps: dict[str, beam.PTransform] = {}
    if config.exact_dedup.enabled:
        steps["Exact"] = ExactDuplicates()
    if config.fuzzy_dedup.enabled:
        steps["Fuzzy"] = FuzzyDuplicates(config.fuzzy_dedup)
    return steps


# Phases that pass verdicts, in order: name -> what the config asks of it.
VERDICTS = {"duplicates": duplicates}


def places(manifests: list[dict[str, Any]], config: CurateConfig) -> dict[str, str]:
    """The files of a finished run: name in the output folder -> where it is now."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        paths = sorted(path for manifest in manifests for path, _ in manifest["files"].get(folder, ()))
        format = config.output.format if folder == "documents" else BETWEEN
        for number, path in enumerate(paths):
            found[f"{folder}/part-{number:05d}-of-{len(paths):05d}.{format}"] = path
    return found


def fingerprint(config: CurateConfig) -> str:
    """Of the config without the output's place, and of what the inputs are now: paths, sizes and times, not content."""
    tree = config.model_dump(mode="json")
    tree["output"].pop("path")
    seen = [sys.version] if any(item.format.startswith("python-") for item in config.inputs) else []
    seen += [line for item in config.inputs for line in _listing(item)]
    data = json.dumps([tree, seen], sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def _listing(config: InputConfig) -> list[str]:
    if config.format == "python-docs":
        return python_docs.module_names()
    if config.format == "python-source":
        return [location for location, _ in python_source.source_files()]
    return [f"{file.path} {file.size} {file.written}" for file in files.matching(config.paths)]


def check_paths(config: CurateConfig) -> None:
    for path in [config.output.path, *(path for item in config.inputs for path in item.paths)]:
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


def make_report(
    config: CurateConfig, output: Output, read: int, summary: dict[str, Any], names: list[str], seconds: float
) -> dict[str, Any]:
    dropped, dead = summary["dropped"], summary["dead"]
    left, funnel = read, []
    for stage in STAGES:
        lost = sum(count for reason, count in dropped.items() if _stage_of(reason) == stage)
        failed = dead.get(stage, 0)
        funnel.append({"stage": stage, "in": left, "dropped": lost, "dead": failed, "out": left - lost - failed})
        left -= lost + failed
    return {
        "fingerprint": output.fingerprint,
        "read": read,
        "kept": sum(summary["kept"].values()),
        "dropped": sum(dropped.values()),
        "dead": sum(dead.values()),
        "kept_bytes": sum(summary["bytes"].values()),
        "seconds": round(seconds, 1),
        "funnel": funnel,
        "reasons": dropped,
        "dead_stages": dead,
        "sources": {
            name: {"documents": count, "bytes": summary["bytes"].get(name, 0)}
            for name, count in summary["kept"].items()
        },
        "languages": summary["languages"],
        "lengths": summary["lengths"],
        "samples": summary["samples"],
        "files": names,
        "config": config.model_dump(mode="json"),
    }


def _stage_of(reason: str) -> str:
    """Reasons are `stage.rule`; the rule sets of quality name themselves."""
    stage = reason.partition(".")[0]
    return stage if stage in STAGES else "quality"


def lines(report: dict[str, Any]) -> list[str]:
    """The run in a few lines: one for each stage that took something away."""
    out = [f"curate: read {report['read']:,} documents"]
    for row in report["funnel"]:
        if row["dropped"] or row["dead"]:
            out.append(f"  {row['stage']:<16} -{row['dropped']:,} dropped, {row['dead']:,} failed; {row['out']:,} left")
    out.append(f"curate: kept {report['kept']:,} ({report['kept_bytes'] / 1e6:.1f} MB) in {report['seconds']:.0f} s")
    return out
