"""A step's gradients when the layers are spread over the mesh axis `stage`."""

from __future__ import annotations

from typing import Any

from flax import nnx

from maxllm.batch import Batch
from maxllm.config.errors import UserError
from maxllm.config.parallel import PipelineConfig


def pipelined_gradients(
    structure: nnx.GraphDef,
    objective: Any,
    parameters: nnx.State,
    batch: Batch,
    accumulation_steps: int,
    *,
    pipeline: PipelineConfig,
) -> tuple[nnx.State, dict[str, Any]]:
    """As `maxllm.train.step.accumulated_gradients`."""
    raise UserError("mesh.stage is not built yet; use mesh.stage=1")
