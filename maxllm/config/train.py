"""Settings of `maxllm train`: model, data, optimizer, schedule, mesh, compute, train."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class ModelConfig(Section):
    """A decoder's shape. The names are the papers'; `maxllm/convert` maps them to Hugging Face's."""

    family: Literal["llama"] = "llama"
    vocab_size: PositiveInt = 32000
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 704
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 8
    num_kv_heads: PositiveInt = 8
    head_dim: PositiveInt | None = Field(None, description="hidden_size / num_heads when absent")
    max_positions: PositiveInt = 2048
    rope_theta: float = Field(10000.0, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    tie_embeddings: bool = False
    init_std: float = Field(0.02, gt=0, description="standard deviation of the normal initialiser")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not divisible by num_kv_heads {self.num_kv_heads}")
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}; set head_dim"
            )
        if self.head_size % 2:
            raise ValueError(f"head_dim {self.head_size} is odd; rotary positions need pairs")
        return self


class SourceConfig(Section):
    """One tokenized dataset (a directory with dataset.json) and its share of the mixture."""

    path: str
    source: str | None = Field(None, description="one of the data set's document sources; none = all, as they come")
    weight: float = Field(1.0, gt=0)


class DataConfig(Section):
    sources: dict[str, SourceConfig] = Field(default_factory=dict)
    sequence_length: PositiveInt = 256
    batch_size: PositiveInt = Field(16, description="sequences per step, over all hosts")
    seed: int = 0
    workers: int = Field(0, ge=0, description="prefetching processes; 0 = a thread of the trainer")


class OptimizerConfig(Section):
    """AdamW; decoupled weight decay on matrices only."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0)
    b1: float = Field(0.9, ge=0, lt=1)
    b2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_norm: float | None = Field(1.0, gt=0, description="global gradient norm; none = no clipping")


class ScheduleConfig(Section):
    name: Literal["cosine"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    final_ratio: float = Field(0.1, ge=0, le=1, description="last learning rate / peak learning rate")


class MeshConfig(Section):
    """Devices along each axis; one axis may be -1: whatever is left."""

    data: int = Field(1, ge=-1)
    fsdp: int = Field(-1, ge=-1)
    tensor: int = Field(1, ge=-1)

    @model_validator(mode="after")
    def _one_fill(self) -> MeshConfig:
        axes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if 0 in axes.values():
            raise ValueError("an axis of 0 devices; use 1 to leave an axis out, -1 to give it what is left")
        if list(axes.values()).count(-1) > 1:
            raise ValueError("more than one axis is -1; only one can take what is left")
        return self


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
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0 = chosen by vocabulary size")


class LoopConfig(Section):
    """The section `train`: how long, how often, where."""

    run_dir: str = "runs/train"
    steps: PositiveInt = 1000
    seed: int = Field(0, description="parameter initialisation")
    init_from: str | None = Field(
        None, description="a run, checkpoint or Hugging Face folder whose parameters a new run begins with"
    )
    accumulation_steps: PositiveInt = 1
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    eval_every: int = Field(0, ge=0, description="steps between held-out losses; 0 = only at the end")
    eval_batches: PositiveInt = 8
    wandb_project: str | None = None


class MeshRule(Section):
    """Settings for one kind of device, e.g. `{device: 'TPU v5p', set: {mesh: {fsdp: -1}}}`."""

    device: str = Field(description="regular expression searched in JAX's device_kind, case ignored")
    set: dict[str, dict[str, object]] = Field(description="sections mesh, compute and train.accumulation_steps")


class TrainConfig(Section):
    kind: Literal["train"] = "train"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    mesh: MeshConfig = MeshConfig()
    compute: ComputeConfig = ComputeConfig()
    train: LoopConfig = LoopConfig()
    mesh_rules: list[MeshRule] = Field(default_factory=list, description="the first that matches the devices applies")

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.data.sequence_length > self.model.max_positions:
            raise ValueError(
                f"data.sequence_length {self.data.sequence_length} is longer than "
                f"model.max_positions {self.model.max_positions}"
            )
        if self.data.batch_size % self.train.accumulation_steps:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} is not divisible by "
                f"train.accumulation_steps {self.train.accumulation_steps}"
            )
        if self.schedule.warmup_steps > self.train.steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} is longer than train.steps {self.train.steps}"
            )
        return self
