"""A tiny model with a real tokenizer, and what it says when nothing is cached, batched or streamed."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.config.serve import EngineConfig, SchedulerConfig
from maxllm.generate.engine import Engine
from maxllm.generate.scheduler import Scheduler
from maxllm.models import Decoder
from maxllm.tokenizer import Tokenizer

MAX_LENGTH = 96

TEXT = """def greet(name): return f"Hello, {name}!" — naïve café, 東京, Ελλάδα 🙂
The quick brown fox jumps over the lazy dog while the rain in Spain falls mainly in the plain.
for index in range(10): print(index, index ** 2)"""


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    return Tokenizer({"tokenizer.model": model.getvalue()})


@pytest.fixture(scope="session")
def model_config(tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_positions=MAX_LENGTH,
        init_std=0.3,  # far from uniform: a wrong cache entry changes the text at once
    )


@pytest.fixture(scope="session")
def model(model_config) -> Decoder:
    return Decoder(model_config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def forward(model):
    """Float32 logits `[length, vocab]` of a sequence, by the training model's own forward pass."""
    structure, parameters = nnx.split(model)

    @jax.jit
    def run(tokens):
        return nnx.merge(structure, parameters)(tokens, jnp.arange(MAX_LENGTH)[None])[0]

    def logits(ids) -> np.ndarray:
        padded = np.zeros((1, MAX_LENGTH), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(run(padded))[: len(ids)]

    return logits


@pytest.fixture(scope="session")
def greedy(forward):
    """The next `count` tokens: the whole sequence through the model for each of them, argmax of the last."""

    def tokens(prompt, count: int) -> tuple[int, ...]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(forward(ids)[-1].argmax()))
        return tuple(ids[len(prompt) :])

    return tokens


@pytest.fixture(scope="session")
def engine(model) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maxllm.generate.engine.SMALLEST_WINDOW", 32)  # so that tiny requests cross windows
        engine = Engine(model, EngineConfig(slots=4, prefill_buckets=[16, MAX_LENGTH]))
    engine.warm_up()
    return engine


@pytest.fixture
def scheduler(engine, tokenizer):
    with Scheduler(engine, tokenizer, SchedulerConfig(queue=64)) as scheduler:
        yield scheduler


@pytest.fixture(scope="session")
def prompts(tokenizer) -> list[tuple[int, ...]]:
    """Of 1 to 40 tokens."""
    ids = tokenizer.encode(TEXT)
    return [tuple(ids[start : start + length]) for start, length in enumerate((1, 3, 7, 15, 16, 17, 25, 33, 40))]
