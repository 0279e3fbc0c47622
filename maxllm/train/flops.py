"""What a token costs, for model FLOP utilisation."""

from __future__ import annotations

import math

from flax import nnx

from maxllm.batch import EncoderDecoderBatch, empty_batch
from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.data.corruption import example
from maxllm.models import abstract, count_parameters


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
    scored = config.tie_embeddings and not config.labels  # a head for labels scores no words
    looked_up = 0 if scored else config.vocab_size * config.hidden_size
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


def flops_per_pair(config: ModelConfig, read: int, written: int) -> float:
    """FLOPs of a row of an encoder-decoder, forward and backward: `read` tokens, and the `written` ones that answer.

    As in `flops_per_token`, but a token meets the parameters of its own stack only, and what was read becomes keys and
    values of the decoder's layers too. A query of the encoder's sees all of `read`, and so does one of the decoder's.
    """
    sizes = {".".join(map(str, path)): math.prod(leaf.shape) for path, leaf in nnx.to_flat_state(abstract(config)[1])}

    def of(*begins: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(begins))

    again = of("decoder.layers.cross.key", "decoder.layers.cross.value")
    by_read = of("encoder.layers") + again
    by_written = of("decoder.layers") - again + config.vocab_size * config.hidden_size
    scores = config.encoder_decoder.num_encoder_layers * read**2 + config.num_layers * written * (written / 2 + read)
    width = 2 * config.num_heads * config.head_size
    return 6.0 * (by_read * read + by_written * written + width * scores)


def flops_per_data_token(config: TrainConfig, length: int) -> float:
    """`flops_per_token` of training on rows of `length`, of which an encoder-decoder makes pairs of rows first."""
    row = example(config)(empty_batch(1, length))
    if not isinstance(row, EncoderDecoderBatch):
        return flops_per_token(config.model, length)
    return flops_per_pair(config.model, row.encoder.tokens.shape[1], row.decoder.tokens.shape[1]) / length


def _keys(window: int | None, length: int) -> float:
    """That a query sees, on average over a row."""
    if window is None or window >= length:
        return length / 2
    return window - window**2 / (2 * length)
