"""What every verb that turns documents into documents does around its phases: find out whether there is anything to
do, and at the end check the count, report, and put all files in place."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems
from pydantic import BaseModel

from data_beam import progress
from data_beam.output import Output, read_json, write_bytes
from data_beam.parts import BETWEEN
from data_beam.phases import Phases, TemplateWritten
from data_beam.report.build import lines, make_report
from data_beam.report.html import render
from data_beam.report.summary import assert_conserved, merged
from maxllm.config.curate import OutputConfig

logger = logging.getLogger("maxllm.progress")
FOLDERS = ("documents", "rejected", "dead")


def run_to_documents(
    verb: str,
    config: BaseModel,
    target: OutputConfig,
    fingerprint: str,
    stages: Sequence[str],
    phases: Callable[[Phases], list[dict[str, Any]]],
    beam_args: Sequence[str],
    *,
    force: bool,
    extra: Callable[[list[dict[str, Any]]], dict[str, Any]] = lambda manifests: {},
    files: Callable[[dict[str, Any]], dict[str, str]] = lambda report: {},
) -> dict[str, Any]:
    """The numbers of report.json. Does nothing when OUT already holds this config's finished output.

    `phases` runs them all and returns the manifests of those in which documents ended; `extra` adds to the report, and
    `files` are further ones, by name, from the report.
    `force` does it again, and replaces the output of another config. Raises UserError, and RuntimeError when
    documents were lost.
    """
    started = time.monotonic()
    output = Output(target.path, fingerprint)
    if output.is_done(verb, force):
        return read_json(output.join("report.json"))
    progress.reset()
    done = Phases(output, beam_args)
    try:
        manifests = phases(done)
    except TemplateWritten as template:
        logger.info(
            "%s: wrote the template %s; when its job is done, run the same command for the next", verb, template
        )
        return {"template": str(template)}
    if not done.jobs:
        logger.info("%s: an earlier run wrote everything and was stopped; putting its output in place", verb)
    summary = merged([manifest["summary"] for manifest in manifests])
    read = sum(manifest["read"] for manifest in manifests)
    assert_conserved(read, summary)
    moves = places(manifests, target.format)
    report = make_report(config, fingerprint, stages, read, summary, sorted(moves), time.monotonic() - started)
    report.update(extra(manifests))
    reports = {"report.json": json.dumps(report, indent=1, ensure_ascii=False), "report.html": render(report)}
    for name, content in (reports | files(report)).items():
        moves[name] = FileSystems.join(done.folder, name)
        write_bytes(moves[name], content.encode())
    output.commit(moves, FOLDERS)
    for line in lines(verb, report):
        logger.info("%s", line)
    return report


def places(manifests: list[dict[str, Any]], format: str) -> dict[str, str]:
    """The files of a finished run: name in the output folder -> where it is now."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        names = (folder, "copies") if folder == "documents" else (folder,)
        paths = sorted(path for each in manifests for name in names for path, _ in each["files"].get(name, ()))
        ending = format if folder == "documents" else BETWEEN
        for number, path in enumerate(paths):
            found[f"{folder}/part-{number:05d}-of-{len(paths):05d}.{ending}"] = path
    return found
