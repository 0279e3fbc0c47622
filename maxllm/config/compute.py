"""The section `compute`: how a step is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maxllm.config.section import Section


class ComputeConfig(Section):
    """How a step is computed. None of it changes what is computed, beyond rounding."""

    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="activations and matmuls")
    remat: Literal["none", "full", "dots", "attention"] = Field(
        "none",
        description="recomputed backward: nothing, all but matrix products (dots), all but attention, the whole layer",
    )
    attention: Literal["auto", "reference", "mapped", "blockwise", "cudnn"] = Field(
        "auto", description="mapped: a head at a time, for CPUs; cudnn: only without packing; auto says what it chose"
    )
    context: Literal["ring", "all_gather"] = Field(
        "ring", description="mesh.context: keys go around from device to device, or all of a row's come to each"
    )
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0 = chosen by vocabulary size")
