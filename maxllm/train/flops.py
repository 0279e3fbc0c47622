"""What a token costs, for model FLOP utilisation."""

from __future__ import annotations

from maxllm.config.model import ModelConfig
from maxllm.models import count_parameters


def flops_per_token(config: ModelConfig, length: int) -> float:
    """FLOPs of one token, forward and backward, in sequences of `length`: 6 N + 6 · Σ over layers of what attention
    multiplies.

    N is the number of parameters that multiply a token: all but tables that are only looked up (an untied embedding,
    learned positions) and the experts that were not chosen; the head once more for each module that predicts further.
    6: two FLOPs per multiply-add, once forward and twice backward. A query is multiplied with the keys that it sees,
    heads · width each, and their values are added up, counted once for causality: length / 2 keys on average (PaLM's
    appendix B, Chowdhery et al. 2022, counts all of them), window - window² / (2 length) where a layer has one. Latent
    attention is counted as it is trained, with keys and values made, and values as wide as they are (not as wide as
    kernels take them). What rematerialisation computes again is not counted, nor is the work saved between packed
    documents that do not see each other. MFU = tokens/s · this / peak FLOP/s of the devices.
    """
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    if config.positions == "learned":
        looked_up += config.max_positions * config.hidden_size
    layers = config.num_layers + config.prediction_layers
    with_experts = layers - config.leading_layers
    expert = 3 * config.hidden_size * (config.routing.expert_size or config.intermediate_size)
    idle = with_experts * expert * max(0, config.num_experts - config.experts_per_token)
    again = config.prediction_layers * config.vocab_size * config.hidden_size
    parameters = count_parameters(config) - looked_up - idle + again
    value_size = config.latent_attention.value_dim if config.latent_attention else config.head_size
    width = config.num_heads * (config.head_size + value_size)
    windows = config.windows
    seen = sum(_keys(config.window if windows[i % len(windows)] else None, length) for i in range(layers))
    return 6.0 * parameters + 6.0 * width * seen


def _keys(window: int | None, length: int) -> float:
    """That a query sees, on average over a row."""
    if window is None or window >= length:
        return length / 2
    return window - window**2 / (2 * length)
