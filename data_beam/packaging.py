"""What remote workers need: this program itself, as one wheel that names its own dependencies."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, WorkerOptions


def add_worker_package(options: PipelineOptions) -> None:
    pass
