"""Parts of the section `model` that only some families have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

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
    mscale_all_dim: float | None = Field(None, description="... and denominator's, which scales the scores too")


class DualChunkConfig(Section):
    """Dual-chunk attention (An et al. 2024): no position that the model has not seen."""

    chunk: PositiveInt = Field(8192, description="positions of a chunk, `s` of the paper")
    local: PositiveInt = Field(1024, description="positions that keep their distance across a chunk's end, `w`")


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
    balance_loss: float = Field(0.0, ge=0, description="coefficient of the load-balance loss (Fedus et al. 2021)")
    z_loss: float = Field(0.0, ge=0, description="coefficient of the router's z-loss (Zoph et al. 2022)")
    bias_rate: float = Field(0.0, ge=0, description="of the bias that balances without a loss (Wang et al. 2024)")
    bias: bool = Field(False, description="the choice, not the weights, sees that bias; on when bias_rate is")


class EncoderConfig(Section):
    """What an encoder has besides layers."""

    type_vocab_size: int = Field(0, ge=0, description="token types (BERT's two sentences)")
    embedding_size: PositiveInt | None = Field(None, description="of the tables, projected up; hidden_size when absent")
    position_offset: int = Field(0, ge=0, description="rows of the position table before position 0 (RoBERTa: 2)")
    pooler: bool = Field(True, description="a layer over the first token, for next-sentence prediction and classes")
    relative_positions: int = Field(0, ge=0, description="DeBERTa: largest distance, `max_relative_positions`")
    position_buckets: int = Field(0, ge=0, description="DeBERTa v3: buckets of distances on a log scale; 0: none")
    share_attention: bool = Field(False, description="DeBERTa v3: positions use the content's projections")
    relative_norm: bool = Field(False, description="DeBERTa v3: a norm over the table of relative positions")
    mask_decoder_layers: int = Field(0, ge=0, description="DeBERTa: the last layer run again with absolute positions")
    generator_factor: float = Field(0.25, gt=0, le=1, description="ELECTRA: the generator's size relative to ours")
    discriminator_weight: float = Field(50.0, gt=0, description="ELECTRA: of replaced-token detection in the loss")


class EncoderDecoderConfig(Section):
    """What an encoder-decoder has besides its two stacks."""

    num_encoder_layers: PositiveInt = 12
    relative_buckets: PositiveInt = Field(32, description="T5's distances")
    relative_distance: PositiveInt = Field(128, description="T5: beyond it, one bucket")
    position_offset: int = Field(0, ge=0, description="rows of the position table before position 0 (BART: 2)")
    start_id: int = Field(0, ge=0, description="the token a decoder begins with")


class LabelsConfig(Section):
    """A head over the hidden states instead of words."""

    kind: Literal["sequence", "token", "embedding", "rerank"] = "sequence"
    count: PositiveInt = 2
    pooling: Literal["first", "mean", "last"] = "first"
