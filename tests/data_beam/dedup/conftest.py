from __future__ import annotations

import base64
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def _line(element: Any) -> str:
    return base64.b64encode(pickle.dumps(element)).decode()


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., list]:
    """What a transform makes of the elements, in no order; through a file, so that workers may be other processes."""
    numbers = itertools.count()

    def run(transform: beam.PTransform, elements: list, *options: str) -> list:
        prefix = tmp_path / f"collected{next(numbers)}"
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
        made = pipeline | beam.Create(elements, reshuffle=False) | transform
        made | "line" >> beam.Map(_line) | "write" >> beam.io.WriteToText(str(prefix))
        pipeline.run().wait_until_finish()
        found = (line for path in tmp_path.glob(f"{prefix.name}-*") for line in path.read_text().splitlines())
        return [pickle.loads(base64.b64decode(line)) for line in found]  # noqa: S301

    return run
