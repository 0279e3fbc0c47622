"""Settings of `maxllm train`: model, data, objective, optimizer, schedule, mesh, compute, train."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig, PipelineConfig
from maxllm.config.section import Section
from maxllm.config.sparsity import SparsityConfig


class SourceConfig(Section):
    """One tokenized dataset (a directory with dataset.json) and its share of the mixture.

    For a model with labels: JSON lines, a file or a folder with train.jsonl and held_out.jsonl.
    """

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


# What is learned with each kind of model.labels, from files of JSON lines instead of token data sets.
LABELLED = {"sequence": "classification", "token": "classification", "rerank": "rerank", "embedding": "contrastive"}
_LABELLED = ("classification", "rerank", "contrastive")
OBJECTIVES = {  # of each architecture; the first is what it learns when none is named
    "decoder": ("causal_lm", "prefix_lm", "fill_in_the_middle", "doremi", *_LABELLED),
    "encoder": ("masked_lm", "replaced_token", *_LABELLED),
    "encoder_decoder": ("span_corruption", "denoising", "ul2"),
}


class ObjectiveConfig(Section):
    """What is minimised. `doremi` looks for a mixture on the way, and writes it to mixture.yml in the run directory."""

    name: Literal[
        "causal_lm",
        "prefix_lm",
        "fill_in_the_middle",
        "masked_lm",
        "replaced_token",
        "span_corruption",
        "denoising",
        "ul2",
        "doremi",
        "classification",
        "rerank",
        "contrastive",
    ] = "causal_lm"
    rate: float | None = Field(
        None, gt=0, lt=1, description="share of tokens damaged (fill_in_the_middle: of segments); the paper's if absent"
    )
    span: float | None = Field(
        None, ge=1, description="span_corruption, denoising: mean length of a damaged span; 3 if absent"
    )
    next_sentence: bool = Field(False, description="masked_lm: segments are pairs, and BERT's second term is learned")
    prediction_weight: float = Field(0.3, ge=0, description="of the loss of model.prediction_layers (DeepSeek-V3)")
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
    moments_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the moments between steps; bfloat16: half the memory, rounded stochastically"
    )


class ScheduleConfig(Section):
    name: Literal["cosine"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    final_ratio: float = Field(0.1, ge=0, le=1, description="last learning rate / peak learning rate")


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
    sparsity: SparsityConfig = SparsityConfig()
    mesh: MeshConfig = MeshConfig()
    pipeline: PipelineConfig = PipelineConfig()
    compute: ComputeConfig = ComputeConfig()
    train: LoopConfig = LoopConfig()
    mesh_rules: list[MeshRule] = Field(default_factory=list, description="the first that matches the devices applies")

    @model_validator(mode="before")
    @classmethod
    def _objective_of_the_architecture(cls, tree: Any) -> Any:
        """Without `objective.name` a model learns what its architecture is for."""
        if isinstance(tree, dict) and isinstance(tree.get("model"), dict):
            names = OBJECTIVES.get(tree["model"].get("architecture", "decoder"))
            objective, encoder = tree.get("objective") or {}, tree["model"].get("encoder") or {}
            if names and isinstance(objective, dict) and isinstance(encoder, dict):
                name = "replaced_token" if encoder.get("head") == "replaced" else names[0]
                if isinstance(labels := tree["model"].get("labels"), dict):
                    name = LABELLED.get(labels.get("kind", "sequence"), name)
                return {**tree, "objective": {"name": name, **objective}}
        return tree

    @model_validator(mode="after")
    def _objective_fits(self) -> TrainConfig:
        name, architecture = self.objective.name, self.model.architecture
        if name not in OBJECTIVES[architecture]:
            raise ValueError(
                f"objective.name {name} is not for model.architecture {architecture}; "
                f"choose {', '.join(OBJECTIVES[architecture])}"
            )
        if name not in ("causal_lm", "fill_in_the_middle", "doremi") and self.mesh.stage != 1:
            raise ValueError(f"objective.name {name} has no pipeline; use mesh.stage=1")
        if name == "prefix_lm" and self.mesh.context != 1:
            raise ValueError("objective.name prefix_lm cannot be spread over mesh.context; use mesh.context=1")
        if name == "prefix_lm" and (self.model.positions == "alibi" or self.model.dual_chunk):
            raise ValueError("objective.name prefix_lm goes neither with model.positions alibi nor with dual_chunk")
        if name == "prefix_lm" and self.model.prediction_layers:
            raise ValueError("objective.name prefix_lm does not go with model.prediction_layers; set that to 0")
        if self.objective.next_sentence and name != "masked_lm":
            raise ValueError(f"objective.next_sentence goes with objective.name masked_lm, not with {name}")
        encoder = self.model.encoder
        if self.objective.next_sentence and not (encoder.head == "next_sentence" and encoder.type_vocab_size > 1):
            raise ValueError("objective.next_sentence needs model.encoder.head=next_sentence and .type_vocab_size=2")
        if name == "replaced_token" and not encoder.generator_factor:
            raise ValueError("objective.name replaced_token needs model.encoder.generator_factor (ELECTRA: 0.25)")
        if name == "masked_lm" and encoder.generator_factor:
            raise ValueError("model.encoder.generator_factor goes with objective.name replaced_token, not masked_lm")
        if self.model.labels and name != (fitting := LABELLED[self.model.labels.kind]):
            raise ValueError(
                f"model.labels.kind {self.model.labels.kind} goes with objective.name {fitting}, not {name}"
            )
        if name in LABELLED.values() and not self.model.labels:
            kinds = " or ".join(kind for kind, objective in LABELLED.items() if objective == name)
            raise ValueError(f"objective.name {name} needs a head for labels: set model.labels.kind to {kinds}")
        if self.model.labels and any(phase.sequence_length for phase in self.data.phases):
            raise ValueError("data.phases: texts with labels are never cut; leave sequence_length out of the phases")
        if name == "masked_lm" and encoder.head == "replaced":
            raise ValueError("model.encoder.head replaced scores no words; objective.name masked_lm needs words")
        return self

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
        if self.sparsity.name != "none" and self.sparsity.last_step(self.train.steps) >= self.train.steps:
            raise ValueError(
                f"sparsity.end_step {self.sparsity.last_step(self.train.steps)} does not come before train.steps "
                f"{self.train.steps}; the last mask would never be chosen"
            )
        if why := self.pipeline.refusal(self.mesh.stage, self.model, self.train.accumulation_steps):
            raise ValueError(why)
        if self.mesh.stage != 1 and (why := self._not_in_stages()):
            raise ValueError(f"{why} has no pipeline; use mesh.stage=1")
        if self.model.prediction_layers and self.mesh.context != 1:
            raise ValueError("model.prediction_layers cannot be spread over mesh.context; use mesh.context=1")
        if self.objective.name == "doremi":
            if self.mesh.stage != 1:
                raise ValueError("objective.name doremi has no pipeline; its proxies are small: use mesh.stage=1")
            if not self.objective.reference:
                raise ValueError("objective.reference is not set; doremi needs a model trained on the baseline mixture")
            if len(self.data.drawn) == 1:
                raise ValueError("data.sources has one source; doremi weighs at least two against each other")
            if self.data.phases:
                raise ValueError("objective.name doremi draws from all sources alike; it cannot go with data.phases")
        return self

    def _not_in_stages(self) -> str | None:
        """The setting whose terms of the loss come out of layers, where a pipeline does not look."""
        routing = self.model.routing if self.model.num_experts else None
        names = [name for name in ("balance_loss", "z_loss", "bias_rate") if getattr(routing, name, 0)]
        return f"model.routing.{names[0]}" if names else "model.prediction_layers" * bool(self.model.prediction_layers)
