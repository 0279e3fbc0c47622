"""Which Beam runner runs a pipeline. Without options: this process, on any machine, with nothing to download."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from data_beam.packaging import add_worker_package

# Plain DirectRunner would look for a Prism binary to download; these names all mean the runner that is in the SDK.
LOCAL = frozenset({"", "fnapirunner", "directrunner", "direct", "bundlebaseddirectrunner"})
MULTI_PROCESSING = "multi_processing"


def runner_of(beam_args: Sequence[str]) -> tuple[PipelineRunner | None, PipelineOptions]:
    """The runner (None: Beam finds the one the options name) and all options.

    `--direct_num_workers N` with N > 1 (0: one a core) means worker processes, unless a running mode is given.
    """
    options = PipelineOptions(list(beam_args))
    if (options.view_as(StandardOptions).runner or "").lower() not in LOCAL:
        add_worker_package(options)
        return None, options
    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers != 1 and not any("direct_running_mode" in word for word in beam_args):
        direct.direct_running_mode = MULTI_PROCESSING
    if direct.direct_running_mode == MULTI_PROCESSING:
        worker = options.view_as(WorkerOptions)
        worker.default_sdk_harness_log_level = worker.default_sdk_harness_log_level or "WARNING"
        worker.sdk_harness_log_level_overrides = {"maxllm.progress": "INFO"}
    return FnApiRunner(), options


def template_of(beam_args: Sequence[str]) -> str | None:
    """Where the options want a Dataflow template written instead of a run."""
    return PipelineOptions(list(beam_args)).view_as(GoogleCloudOptions).template_location


def run(build: Callable[[beam.Pipeline], Any], beam_args: Sequence[str] = ()) -> PipelineResult:
    """Builds the pipeline, runs it and waits for its end. Raises what the pipeline raised."""
    runner, options = runner_of(beam_args)
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    logging.getLogger("maxllm.progress").info("running on %s", type(pipeline.runner).__name__)
    result = pipeline.run()
    if not template_of(beam_args):
        result.wait_until_finish()
    return result
