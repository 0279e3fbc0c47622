"""Settings of `maxllm train`: model, data, objective, optimizer, schedule, mesh, compute, train."""

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
    weight: float = Field(1.0, ge=0, description="share of the mixture, relative to the others'; 0 = left out")


class PhaseConfig(Section):
    """A stretch of training with a mixture or a sequence length of its own. Every step has as many tokens as ever."""

    until: float = Field(gt=0, description="its end: a share of train.steps up to 1, or a whole number of steps")
    weights: dict[str, float] | None = Field(
        None, description="share of each source, 0 where none is given; the sources' own without this"
    )
    sequence_length: PositiveInt | None = Field(None, description="a divisor of data.sequence_length")


class DataConfig(Section):
    sources: dict[str, SourceConfig] = Field(default_factory=dict)
    sequence_length: PositiveInt = 256
    batch_size: PositiveInt = Field(16, description="sequences per step, over all hosts")
    seed: int = 0
    workers: int = Field(0, ge=0, description="prefetching processes; 0 = a thread of the trainer")
    phases: list[PhaseConfig] = Field(default_factory=list, description="a curriculum; none = one mixture throughout")

    @property
    def drawn(self) -> list[str]:
        """Names of the sources that training draws from at some time, sorted."""
        mixtures = [phase.weights for phase in self.phases] or [None]
        own = {name: source.weight for name, source in self.sources.items()}
        return sorted(
            {name for weights in mixtures for name, weight in (own if weights is None else weights).items() if weight}
        )

    @model_validator(mode="after")
    def _phases_fit(self) -> DataConfig:
        for number, phase in enumerate(self.phases):
            here = f"phases.{number}"
            if phase.until > 1 and phase.until != int(phase.until):
                raise ValueError(f"{here}.until {phase.until} is neither a share up to 1 nor a whole number of steps")
            if self.sequence_length % (phase.sequence_length or self.sequence_length):
                raise ValueError(
                    f"{here}.sequence_length {phase.sequence_length} does not divide data.sequence_length "
                    f"{self.sequence_length}, which is the longest"
                )
            if phase.weights is None:
                continue
            if unknown := sorted(phase.weights.keys() - self.sources.keys()):
                known = ", ".join(sorted(self.sources)) or "no sources"
                raise ValueError(f"{here}.weights names {unknown[0]}, which is none of data.sources ({known})")
            if min(phase.weights.values(), default=0) < 0 or not sum(phase.weights.values()):
                raise ValueError(f"{here}.weights has to be positive for at least one source, and negative for none")
        return self


class ObjectiveConfig(Section):
    """What is minimised. `doremi` looks for a mixture on the way, and writes it to mixture.yml in the run directory."""

    name: Literal["causal_lm", "doremi"] = "causal_lm"
    reference: str | None = Field(None, description="doremi: a run or checkpoint trained on the baseline mixture")
    step_size: float = Field(1.0, gt=0, description="doremi: of the weights' exponentiated ascent (eta)")
    smoothing: float = Field(1e-3, ge=0, lt=1, description="doremi: share of the uniform mixture in every update (c)")


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
    objective: ObjectiveConfig = ObjectiveConfig()
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
        if self.objective.name == "doremi":
            if not self.objective.reference:
                raise ValueError("objective.reference is not set; doremi needs a model trained on the baseline mixture")
            if len(self.data.drawn) == 1:
                raise ValueError("data.sources has one source; doremi weighs at least two against each other")
            if self.data.phases:
                raise ValueError("objective.name doremi draws from all sources alike; it cannot go with data.phases")
        return self
