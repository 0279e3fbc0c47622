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
    attention: Literal["auto", "reference", "mapped", "blockwise", "cudnn", "mosaic", "splash"] = Field(
        "auto", description="auto: the first of its platform's that can; says which, and why not the others"
    )
    precision: Literal["none", "fp8", "fp8_delayed", "int8"] = Field(
        "none",
        description="of the layers' matrix products in training; fp8 is for NVIDIA from Hopper on, int8 for TPUs",
    )
    precision_modules: list[str] = Field(
        ["layers/.*"],
        description="regular expressions of the products' paths, e.g. layers/mlp/(gate|up); each has to match some",
    )
    context: Literal["ring", "all_gather"] = Field(
        "ring", description="mesh.context: keys go around from device to device, or all of a row's come to each"
    )
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0 = chosen by vocabulary size")
