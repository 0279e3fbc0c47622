"""What a token costs, for model FLOP utilisation."""

from __future__ import annotations

from maxllm.config.model import ModelConfig
from maxllm.models import count_parameters


def flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs of one token, forward and backward, in sequences of `length`: 6 N + 6 · layers · heads · head_dim · length.

    N is the number of parameters that multiply a token: all but an untied embedding table, which is only looked up,
    and the experts that were not chosen. 6: two
    FLOPs per multiply-add, once forward and twice backward. The second term is the scores and their product with the
    values, counted once for causality: a token sees length / 2 others on average (PaLM's appendix B, Chowdhery et al.
    2022, counts all of them and has 12). What rematerialisation computes again is not counted, nor is the work saved
    between packed documents that do not see each other. MFU = tokens/s · this / peak FLOP/s of the devices.
    """
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    expert = 3 * config.hidden_size * config.intermediate_size
    idle = config.num_layers * expert * max(0, config.num_experts - config.experts_per_token)
    parameters = count_parameters(config) - looked_up - idle
    return 6.0 * parameters + 6.0 * config.num_layers * config.num_heads * config.head_size * length
