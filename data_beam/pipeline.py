"""`curate(config)`: run the pipeline, check its count, put its output in place, report."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from apache_beam.io.filesystems import FileSystems

from data_beam import progress
from data_beam.curation import STAGES, Curate, stages_after_extraction, stages_before_extraction
from data_beam.io import files, python_docs, python_source
from data_beam.output import MANIFEST, Output, read_json, write_bytes
from data_beam.report.html import render
from data_beam.report.manifest import assert_conserved
from data_beam.runner import run, template_of
from maxllm.config.curate import CurateConfig, InputConfig
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
FOLDERS = ("documents", "rejected", "dead")


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
    folder = None if force else output.finished_run()
    if folder is None:
        check_stages(config)
        folder = output.new_run()
        progress.reset()
        run(lambda pipeline: pipeline | "Curate" >> Curate(config, folder), beam_args)
        if template := template_of(beam_args):
            logger.info(
                "curate: wrote the template %s; when its job is done, run this again without the template", template
            )
            return {"template": template}
    else:
        logger.info("curate: an earlier run wrote everything and was stopped; putting its output in place")
    manifest = read_json(f"{folder}/{MANIFEST}")
    if manifest is None:
        raise RuntimeError(f"the pipeline ended without writing {folder}/{MANIFEST}; see the runner's log")
    assert_conserved(manifest)
    report = make_report(config, output, manifest, time.monotonic() - started)
    write_bytes(f"{folder}/report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    write_bytes(f"{folder}/report.html", render(report).encode())
    written = [name for names in manifest["files"].values() for name in names]
    output.commit(folder, [*written, "report.json", "report.html"], FOLDERS)
    for line in lines(report):
        logger.info("%s", line)
    return report


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


def make_report(config: CurateConfig, output: Output, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    dropped, dead = manifest["dropped"], manifest["dead"]
    left, funnel = manifest["read"], []
    for stage in STAGES:
        lost = sum(count for reason, count in dropped.items() if _stage_of(reason) == stage)
        failed = dead.get(stage, 0)
        funnel.append({"stage": stage, "in": left, "dropped": lost, "dead": failed, "out": left - lost - failed})
        left -= lost + failed
    return {
        "fingerprint": output.fingerprint,
        "read": manifest["read"],
        "kept": sum(manifest["kept"].values()),
        "dropped": sum(dropped.values()),
        "dead": sum(dead.values()),
        "kept_bytes": sum(manifest["bytes"].values()),
        "seconds": round(seconds, 1),
        "funnel": funnel,
        "reasons": dropped,
        "dead_stages": dead,
        "sources": {
            name: {"documents": count, "bytes": manifest["bytes"].get(name, 0)}
            for name, count in manifest["kept"].items()
        },
        "languages": manifest["languages"],
        "lengths": manifest["lengths"],
        "samples": manifest["samples"],
        "files": manifest["files"],
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
