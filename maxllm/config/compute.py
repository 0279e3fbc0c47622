"""The section `compute`: how a step is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maxllm.config.section import Section


class ComputeConfig(Section):
    """How a step is computed. None of it changes what is computed, beyond rounding."""

    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="activations and matmuls")
    remat: Literal["none", "full", "dots", "attention"] = Field(
        "none",
        description="recomputed backward: nothing, all but matrix products (dots), all but attention, the whole layer",
    )
    save: list[str] = Field(
        default_factory=list, description="more intermediates to keep, by name: docs/training/memory.md"
    )
    offload: list[str] = Field(default_factory=list, description="intermediates to keep in the host's memory, by name")
    attention: Literal["auto", "reference", "mapped", "blockwise", "cudnn", "mosaic", "splash"] = Field(
        "auto", description="auto: the first of its platform's that can; says which, and why not the others"
    )
    precision: Literal["none", "fp8", "fp8_delayed", "int8"] = Field(
        "none",
        description="of the layers' matrix products in training; fp8 is for NVIDIA from Hopper on, int8 for TPUs",
    )
    precision_modules: list[str] = Field(
        ["((en|de)coder/)?layers/.*"],
        description="regular expressions of the products' paths, e.g. layers/mlp/(gate|up); each has to match some",
    )
    context: Literal["ring", "all_gather"] = Field(
        "ring", description="mesh.context: keys go around from device to device, or all of a row's come to each"
    )
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0 = chosen by vocabulary size")

    compiler_flags: dict[str, bool | int | str] = Field(
        default_factory=dict, description="XLA's options, over those for the devices' kind: docs/training/flags.md"
    )

    @model_validator(mode="after")
    def _named_where_something_is_recomputed(self) -> ComputeConfig:
        if self.remat == "none" and (self.save or self.offload):
            setting = "offload" if self.offload else "save"
            raise ValueError(f"{setting} needs remat full, attention or dots; with none all stays on the device")
        if both := sorted(set(self.save) & set(self.offload)):
            raise ValueError(f"{both[0]} is both in save and in offload; it is kept in one place")
        return self
