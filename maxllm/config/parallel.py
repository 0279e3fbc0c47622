"""The sections `mesh` and `pipeline`: how a model and a batch are spread over devices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.model import ModelConfig
from maxllm.config.section import Section

# From the slowest network to the fastest: neighbours along `tensor` are the closest devices.
AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")


class MeshConfig(Section):
    """Devices along each axis; one axis may be -1: whatever is left."""

    data: int = Field(1, ge=-1, description="copies of the model, each with rows of the batch of its own")
    stage: int = Field(1, ge=-1, description="pipeline stages: groups of layers")
    fsdp: int = Field(-1, ge=-1, description="rows of the batch, and parts of every parameter")
    expert: int = Field(1, ge=-1, description="rows of the batch, and whole experts")
    context: int = Field(1, ge=-1, description="stretches of every row, and parts of every parameter")
    tensor: int = Field(1, ge=-1, description="heads, and columns of the matrices between them")
    zero: Literal[1, 2, 3] = Field(
        3,
        description="split over fsdp: 1 moments and float32 parameters, 2 gradients too, 3 also what is computed with",
    )
    compress: Literal["none", "bfloat16", "int8"] = Field(
        "none", description="gradients as they are added up over data, with error feedback"
    )

    @property
    def sizes(self) -> dict[str, int]:
        """Devices along each axis, in the order of AXES."""
        return {axis: getattr(self, axis) for axis in AXES}

    @model_validator(mode="after")
    def _one_fill(self) -> MeshConfig:
        sizes = list(self.sizes.values())
        if 0 in sizes:
            raise ValueError("an axis of 0 devices; use 1 to leave an axis out, -1 to give it what is left")
        if sizes.count(-1) > 1:
            raise ValueError("more than one axis is -1; only one can take what is left")
        if self.compress != "none" and self.data == 1:
            raise ValueError(f"compress {self.compress} is for what travels over data, which is 1; set compress=none")
        if self.compress != "none" and self.stage != 1:
            raise ValueError(f"compress {self.compress} does not work with stages yet; set compress=none or stage=1")
        return self


class PipelineConfig(Section):
    """How the micro-batches of a step (train.accumulation_steps) follow one another through mesh.stage stages."""

    schedule: Literal["gpipe", "1f1b", "interleaved"] = Field(
        "1f1b", description="gpipe keeps every micro-batch's activations, 1f1b those of as many as there are stages"
    )
    chunks: PositiveInt = Field(2, description="interleaved: groups of layers that each stage holds")

    def bubble(self, stages: int, micro_batches: int) -> float:
        """Share of a step that a stage waits: (p - 1) / (m v + p - 1) for p stages, m micro-batches and v chunks.

        Narayanan et al. 2021, section 2.2, give it relative to the work, (p - 1) / (m v).
        """
        passes = micro_batches * (self.chunks if self.schedule == "interleaved" else 1)
        return (stages - 1) / (passes + stages - 1)

    def refusal(self, stages: int, model: ModelConfig, micro_batches: int) -> str | None:
        """Why this model and as many micro-batches cannot go through this many stages, in a sentence; None if they can.

        That the stages divide the layers evenly is the mesh's to ask for.
        """
        if stages <= 1:
            return None
        layers, turns = model.num_layers - model.leading_layers, len(model.windows)
        own = layers // (stages * (self.chunks if self.schedule == "interleaved" else 1))
        if own % turns:
            return (
                f"{own} layers that follow one another in a stage are no multiple of model.global_every {turns}, by "
                f"which layers take turns; choose mesh.stage, now {stages}, so that they are"
            )
        if self.schedule != "interleaved":
            return None
        if layers % (stages * self.chunks):
            return (
                f"model.num_layers {layers} is not divisible by mesh.stage x pipeline.chunks = {stages * self.chunks}; "
                "choose pipeline.chunks so that it is, or pipeline.schedule=1f1b"
            )
        if micro_batches % stages:
            return (
                f"train.accumulation_steps {micro_batches} is not divisible by mesh.stage {stages}, and as many "
                "micro-batches as there are stages go around together; make it a multiple, or take "
                "pipeline.schedule=1f1b"
            )
        return None

    def described(self, stages: int, micro_batches: int) -> str:
        """For the log: "1f1b, 4 stages, 8 micro-batches, bubble 27.3 %", and what to do about a large one."""
        chunks = f" x {self.chunks} groups of layers" if self.schedule == "interleaved" else ""
        bubble = self.bubble(stages, micro_batches)
        hint = "; with train.accumulation_steps below mesh.stage some stages always wait" * (micro_batches < stages)
        return f"{self.schedule}, {stages} stages{chunks}, {micro_batches} micro-batches, bubble {bubble:.1%}{hint}"
