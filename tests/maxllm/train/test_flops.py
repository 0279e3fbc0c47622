"""The FLOPs that utilisation is measured against."""

from __future__ import annotations

import pytest

from maxllm.config.load import resolve
from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.models import count_parameters
from maxllm.train.flops import flops_per_data_token, flops_per_pair, flops_per_token


def test_it_is_six_per_parameter_and_attention_counted_once():
    shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 12, "num_layers": 3, "num_heads": 2}
    matrices = 3 * (4 * 8 * 8 + 3 * 8 * 12)
    norms = 7 * 8
    attention = 6 * 3 * 2 * 4 * 16
    for tied in (False, True):
        config = ModelConfig(**shape, num_kv_heads=2, tie_embeddings=tied)
        assert flops_per_token(config, 16) == pytest.approx(6 * (matrices + norms + 100 * 8) + attention)


def test_tables_that_are_only_looked_up_are_no_work_and_a_window_sees_less():
    shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 12, "num_layers": 2, "num_heads": 2}
    base = {**shape, "num_kv_heads": 2}
    learned = ModelConfig(**base, positions="learned", max_positions=32)
    assert flops_per_token(learned, 16) == flops_per_token(ModelConfig(**base), 16)
    # Query i of 16 sees min(i + 1, 4) keys; a whole row is counted as i + 1/2, and so is the beginning of this one.
    less = sum(i + 0.5 - min(i + 0.5, 4) for i in range(16)) / 16
    local = ModelConfig(**base, window=4, global_every=2)  # one layer of two
    assert flops_per_token(ModelConfig(**base), 16) - flops_per_token(local, 16) == pytest.approx(12 * 8 * less)


def test_deepseek_v3_is_counted_by_hand():
    """671 billion parameters, of which a token uses 37 (DeepSeek-AI 2024, section 4.2)."""
    model = resolve(TrainConfig, "models/deepseek-v3", []).config.model
    attention = (
        7168 * 1536 + 1536 + 1536 * 128 * 192 + 7168 * (512 + 64) + 512 + 512 * 128 * (128 + 128) + 128 * 128 * 7168
    )
    dense, expert, router = 3 * 7168 * 18432, 3 * 7168 * 2048, 7168 * 256 + 256
    layer = attention + 2 * 7168
    used = 61 * layer + 3 * dense + 58 * (router + 9 * expert) + 7168 + 129280 * 7168
    assert used / 1e9 == pytest.approx(37, abs=0.5)
    scores = 6 * 61 * 128 * (192 + 128) * 4096 / 2
    assert flops_per_token(model, 4096) == 6.0 * used + scores
    # The module that predicts one token further: two norms, a matrix, a layer, a norm, and the head once more.
    module = 3 * 7168 + 2 * 7168 * 7168 + layer + router + 9 * expert + 129280 * 7168
    further = flops_per_token(model.model_copy(update={"prediction_layers": 1}), 4096)
    assert further == 6.0 * (used + module) + scores * 62 / 61
    assert count_parameters(model) == used + 58 * (256 - 8) * expert + 129280 * 7168


def test_a_token_of_a_pair_meets_its_own_stack():
    """By hand: attention's four matrices, the gated feed-forward's three, norms; keys and values of what was read."""
    pair = {"num_encoder_layers": 2, "relative_buckets": 8}
    sizes = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 12, "num_layers": 3, "num_heads": 2}
    shape = {"architecture": "encoder_decoder", "positions": "relative", "tie_embeddings": True}
    model = ModelConfig(**sizes, **shape, num_kv_heads=2, encoder_decoder=pair)
    square, fed = 8 * 8, 3 * 8 * 12
    read = 2 * (4 * square + fed + 2 * 8) + 3 * 2 * square
    written = 3 * (4 * square + 2 * square + fed + 3 * 8) + 100 * 8
    scores = 16 * (2 * 20 * 20 + 3 * 6 * (3 + 20))
    assert flops_per_pair(model, 20, 6) == pytest.approx(6 * (20 * read + 6 * written + scores))
    config = TrainConfig(model=model, data={"sequence_length": 256}, objective={"name": "span_corruption"})
    # Of 256 tokens 38 are noise, in 13 spans: 218 + 13 and an end are read, 38 + 13 and an end written; rounded.
    assert flops_per_data_token(config, 256) == flops_per_pair(model, 240, 56) / 256
