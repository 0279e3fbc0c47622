"""The section `model`: a decoder's shape."""

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
    num_experts: int = Field(0, ge=0, description="0: every layer is dense")
    experts_per_token: PositiveInt = 2
    capacity_factor: float | None = Field(
        None, gt=0, description="places of an expert, in even shares of a row's tokens; absent: no token is dropped"
    )
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
        if 0 < self.num_experts < self.experts_per_token:
            raise ValueError(f"experts_per_token {self.experts_per_token} of only {self.num_experts} num_experts")
        return self
