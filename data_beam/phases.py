"""A run in phases: Beam jobs one after the other, each leaving its result in files, so that none is done twice.

The phases of one config live in OUT/.staging/<fingerprint>. A phase is done when its manifest, the last thing its job
writes, is there; a run that was killed finds it and goes on with the next. A job writes into a folder of its own, so
that what a killed one left half done is nobody's.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from data_beam.output import Output, make_folder, read_json, write_bytes
from data_beam.runner import run, template_of

logger = logging.getLogger("maxllm.progress")


class TemplateWritten(Exception):
    """The options asked for a template of the next job instead of a run; the message is where it is."""


class Job:
    """One phase's place: where to write its files, and its manifest as the very last."""

    def __init__(self, folder: str, manifest: str) -> None:
        self.folder, self.manifest = folder, manifest

    def path(self, *names: str) -> str:
        return FileSystems.join(self.folder, *names)

    def finish(self, **content: Any) -> None:
        """The phase is done: what later phases and the report need to know of it. JSON's types."""
        write_bytes(self.manifest, json.dumps(content).encode())


class Phases:
    def __init__(self, output: Output, beam_args: Sequence[str] = ()) -> None:
        self.folder = output.join(".staging", output.fingerprint[:16])
        self.beam_args = beam_args
        self.jobs = 0  # run here, not found done

    def run(self, name: str, build: Callable[[beam.Pipeline, Job], Any]) -> dict[str, Any]:
        """The manifest of phase `name`, after running its job if it was not there. Raises TemplateWritten."""
        path = FileSystems.join(self.folder, f"{name}.json")
        if (done := read_json(path)) is not None:
            logger.info("%s: done before; going on from its result", name)
            return done
        job = Job(FileSystems.join(self.folder, f"{name}-{uuid.uuid4().hex[:12]}"), path)
        make_folder(job.folder)
        self.jobs += 1
        run(lambda pipeline: build(pipeline, job), self.beam_args)
        if template := template_of(self.beam_args):
            raise TemplateWritten(template)
        done = read_json(path)
        if done is None:
            raise RuntimeError(f"the job of phase {name} ended without writing {path}; see the runner's log")
        return done
