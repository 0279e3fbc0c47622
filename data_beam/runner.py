"""Which Beam runner runs a pipeline. Without options: this process, on any machine, with nothing to download."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from maxllm.config.errors import UserError

# Plain DirectRunner would look for a Prism binary to download; these names all mean the runner that is in the SDK.
LOCAL = (None, "", "FnApiRunner", "DirectRunner", "direct", "BundleBasedDirectRunner")


def runner_of(beam_args: Sequence[str]) -> tuple[PipelineRunner | None, PipelineOptions]:
    """The runner (None: Beam finds the one the options name) and all options.

    `--direct_num_workers N` with N > 1 (0: one a core) means worker processes, unless a running mode is given.
    """
    options = PipelineOptions(list(beam_args))
    unknown = [name for name in options.get_all_options(retain_unknown_options=True) if name == "help"]
    if unknown:
        raise UserError("Beam's own --help is not available here; see the runner's page in Beam's documentation")
    if options.view_as(StandardOptions).runner not in LOCAL:
        return None, options
    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers != 1 and not any("direct_running_mode" in word for word in beam_args):
        direct.direct_running_mode = "multi_processing"
    return FnApiRunner(), options


def run(build: Callable[[beam.Pipeline], None], beam_args: Sequence[str] = (), name: str = "maxllm") -> None:
    """Builds the pipeline, runs it and waits for its end. Raises what the pipeline raised."""
    from data_beam.packaging import add_worker_package

    runner, options = runner_of(beam_args)
    if runner is None:
        add_worker_package(options)
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    logging.getLogger(__name__).info("%s: running on %s", name, type(pipeline.runner).__name__)
    pipeline.run().wait_until_finish()
