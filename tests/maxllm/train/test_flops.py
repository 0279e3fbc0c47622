"""The FLOPs that utilisation is measured against."""

from __future__ import annotations

import pytest

from maxllm.config.model import ModelConfig
from maxllm.train.flops import flops_per_token


def test_it_is_six_per_parameter_and_attention_counted_once():
    shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 12, "num_layers": 3, "num_heads": 2}
    matrices = 3 * (4 * 8 * 8 + 3 * 8 * 12)
    norms = 7 * 8
    attention = 6 * 3 * 2 * 4 * 16
    for tied in (False, True):
        config = ModelConfig(**shape, num_kv_heads=2, tie_embeddings=tied)
        assert flops_per_token(config, 16) == pytest.approx(6 * (matrices + norms + 100 * 8) + attention)
