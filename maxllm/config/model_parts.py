"""Parts of the section `model` that only some families have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class RopeScalingConfig(Section):
    """How rotary frequencies are stretched for positions beyond those of the first training (maxllm/models/rope.py)."""

    kind: Literal["linear", "dynamic", "yarn", "llama3"] = "linear"
    factor: float = Field(1.0, ge=1)
    original_positions: PositiveInt = Field(8192, description="positions of the first training")
    low_frequency_factor: float = Field(1.0, gt=0, description="llama3")
    high_frequency_factor: float = Field(4.0, gt=0, description="llama3")
    beta_fast: float = Field(32.0, gt=0, description="yarn: turns from which on a dimension is left as it is")
    beta_slow: float = Field(1.0, gt=0, description="yarn: turns up to which a dimension is stretched whole")
    attention_factor: float | None = Field(None, description="yarn: of the cosines; 0.1 ln(factor) + 1 when absent")
    mscale: float | None = Field(None, description="yarn as DeepSeek has it: numerator's 0.1 mscale ln(factor) + 1")
    mscale_all_dim: float | None = Field(
        None, description="... and denominator's, which scales latent attention's scores too"
    )

    @model_validator(mode="after")
    def _ramp(self) -> RopeScalingConfig:
        if self.high_frequency_factor <= self.low_frequency_factor:
            raise ValueError(
                f"high_frequency_factor {self.high_frequency_factor} is not above low_frequency_factor "
                f"{self.low_frequency_factor}"
            )
        return self


class DualChunkConfig(Section):
    """Dual-chunk attention (An et al. 2024): no position that the model has not seen."""

    chunk: PositiveInt = Field(8192, description="positions of a chunk, `s` of the paper")
    local: PositiveInt = Field(1024, description="positions that keep their distance across a chunk's end, `w`")

    @model_validator(mode="after")
    def _shorter(self) -> DualChunkConfig:
        if self.local >= self.chunk:
            raise ValueError(f"local {self.local} is not below chunk {self.chunk}")
        return self


class LatentAttentionConfig(Section):
    """Multi-head latent attention (DeepSeek-AI 2024, section 2.1): keys and values from one small vector a token."""

    query_rank: PositiveInt | None = Field(1536, description="none: queries straight from the hidden state")
    rank: PositiveInt = Field(512, description="of keys and values")
    nope_dim: PositiveInt = Field(128, description="of a head's query and key without positions")
    rope_dim: PositiveInt = Field(64, description="... and with, its key shared by all heads")
    value_dim: PositiveInt = 128


class RoutingConfig(Section):
    """How tokens come to experts. The number of experts, and of a token, stand in `model`."""

    expert_size: PositiveInt | None = Field(None, description="intermediate size of an expert; the model's when absent")
    shared_size: int = Field(0, ge=0, description="intermediate size of the shared experts together; 0: none")
    shared_gate: bool = Field(False, description="the shared experts' output times a sigmoid of the token (Qwen)")
    dense_layers: int = Field(0, ge=0, description="layers at the beginning without experts")
    scores: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = Field(True, description="a token's weights add up to 1, before `scale`")
    scale: float = Field(1.0, gt=0, description="of a token's weights")
    groups: PositiveInt = Field(1, description="groups of experts, of which only the best are looked at")
    groups_per_token: PositiveInt = 1
    bias: bool = Field(False, description="of scores where experts are chosen, not of their weights (DeepSeek-V3)")
    bias_rate: float = Field(0.0, ge=0, description="... and its step against uneven loads, no loss (Wang et al. 2024)")
    balance_loss: float = Field(0.0, ge=0, description="coefficient of the load-balance loss (Fedus et al. 2021)")
    z_loss: float = Field(0.0, ge=0, description="coefficient of the router's z-loss (Zoph et al. 2022)")

    @property
    def biased(self) -> bool:
        return self.bias or self.bias_rate > 0

    def refusal(self, num_experts: int, experts_per_token: int) -> str | None:
        """Why that many experts cannot be routed to so, or None."""
        within = num_experts // self.groups * self.groups_per_token
        if num_experts % self.groups:
            return f"num_experts {num_experts} is not divisible by routing.groups {self.groups}"
        if self.groups_per_token > self.groups:
            return f"routing.groups_per_token {self.groups_per_token} of only {self.groups} routing.groups"
        if experts_per_token > within:
            return f"experts_per_token {experts_per_token} of only {within} experts within routing.groups_per_token"
        return None


class EncoderConfig(Section):
    """What an encoder has besides layers."""

    head: Literal["words", "next_sentence", "replaced"] = Field(
        "words", description="masked words; and whether a text follows another (BERT); or replaced tokens (ELECTRA)"
    )
    type_vocab_size: int = Field(0, ge=0, description="token types (BERT's two sentences)")
    embedding_size: PositiveInt | None = Field(None, description="of the tables, projected up; hidden_size when absent")
    position_offset: int = Field(0, ge=0, description="rows of the position table before position 0 (RoBERTa: 2)")
    relative_positions: int = Field(0, ge=0, description="DeBERTa: largest distance, `max_relative_positions`")
    position_buckets: int = Field(0, ge=0, description="DeBERTa v3: buckets of distances on a log scale; 0: none")
    key_bias: bool = Field(True, description="DeBERTa v1: keys, and positions as keys, have none")
    share_attention: bool = Field(False, description="DeBERTa v3: positions use the content's projections")
    relative_norm: bool = Field(False, description="DeBERTa v3: a norm over the table of relative positions")
    mask_decoder_layers: int = Field(0, ge=0, description="DeBERTa: times the last layer sees absolute positions")
    generator_factor: float | None = Field(
        None, gt=0, le=1, description="ELECTRA's training: the generator's width relative to ours"
    )


class EncoderDecoderConfig(Section):
    """What an encoder-decoder has besides its two stacks; `model.num_layers` counts the decoder's layers."""

    num_encoder_layers: PositiveInt = 12
    relative_buckets: PositiveInt = Field(32, description="T5's distances")
    relative_distance: PositiveInt = Field(128, description="T5: beyond it, one bucket")
    position_offset: int = Field(0, ge=0, description="rows of the position table before position 0 (BART: 2)")
    head_scale: float | None = Field(None, gt=0, description="of what the head sees (T5 1.0: 1 / sqrt(hidden_size))")
    start_id: int = Field(0, ge=0, description="the token that a decoder begins with")
    forced_id: int | None = Field(None, ge=0, description="the token that every answer begins with (BART: bos)")


class LabelsConfig(Section):
    """A head over the hidden states instead of words. `rerank`: one score for a text that holds a pair."""

    kind: Literal["sequence", "token", "embedding", "rerank"] = "sequence"
    count: PositiveInt = Field(2, description="classes of `sequence` and `token`; as many as `names` where those are")
    names: tuple[str, ...] = Field((), description="the classes', in order; numbers from 0 when absent")
    pooling: Literal["first", "mean", "last"] = Field("first", description="what a text's label is read from")
    hidden: Literal["none", "tanh", "gelu"] = Field("tanh", description="a layer of this activation before the classes")

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_names(cls, tree: Any) -> Any:
        return {"count": len(tree["names"]), **tree} if isinstance(tree, dict) and tree.get("names") else tree

    @model_validator(mode="after")
    def _names_fit(self) -> LabelsConfig:
        if self.names and len(set(self.names)) != self.count:
            raise ValueError(f"names has {len(set(self.names))} different ones, and count is {self.count}")
        return self
