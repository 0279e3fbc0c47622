"""A tiny random model and a tokenizer trained on this folder's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_beam.tokenizer_training import train_tokenizer
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.tokenize import TokenizerConfig
from maxllm.models import Decoder, create
from maxllm.parallel.mesh import single_device_mesh
from maxllm.tokenizer import Tokenizer

TEXTS = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer({"tokenizer.model": train_tokenizer(TEXTS, TokenizerConfig(vocab_size=400, special_tokens=[]))})


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Decoder:
    """Weights ten times the usual, so that its predictions differ from one another."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_positions=256,
        init_std=0.2,
    )
    return create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)
