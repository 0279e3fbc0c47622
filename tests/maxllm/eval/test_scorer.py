"""The scorer against one plain forward pass per text, at the text's own length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lm_eval.utils import get_rolling_token_windows

from maxllm.eval.scorer import Scorer
from maxllm.eval.windows import windows
from maxllm.models import Decoder


@nnx.jit
def logits_of(model: Decoder, ids: jax.Array) -> jax.Array:
    return model(ids, jnp.arange(ids.shape[1])[None])


def slow_score(model: Decoder, tokens: list[int], first: int) -> tuple[float, bool]:
    log_p = jax.nn.log_softmax(logits_of(model, jnp.asarray([tokens[:-1]], jnp.int32))[0], axis=-1)
    wanted = np.asarray(tokens[first:])
    rows = np.asarray(log_p)[first - 1 :]
    return -float(rows[np.arange(len(wanted)), wanted].sum(dtype=np.float64)), bool((rows.argmax(-1) == wanted).all())


def random_texts(count: int, lengths: list[int], vocab: int) -> list[tuple[list[int], int]]:
    generator = np.random.default_rng(0)
    texts = []
    for number in range(count):
        tokens = generator.integers(0, vocab, lengths[number % len(lengths)]).tolist()
        texts.append((tokens, int(generator.integers(1, len(tokens)))))
    return texts


def test_batched_equals_one_full_forward_per_text(model: Decoder):
    texts = random_texts(24, [2, 64, 65, 129], model.config.vocab_size)
    scores = Scorer(model, context=128, batch_tokens=512).score(texts)
    for (tokens, first), score in zip(texts, scores, strict=True):
        nats, greedy = slow_score(model, tokens, first)
        assert score.nats == pytest.approx(nats, rel=1e-5, abs=1e-3)
        assert score.greedy == greedy
        assert score.tokens == len(tokens) - first


def test_order_and_batch_size_change_nothing_but_rounding(model: Decoder):
    texts = random_texts(20, [3, 50, 100, 200, 400], model.config.vocab_size)
    forward = Scorer(model, context=128, batch_tokens=512).score(texts)
    backward = Scorer(model, context=128, batch_tokens=256).score(texts[::-1])[::-1]
    np.testing.assert_allclose([s.nats for s in forward], [s.nats for s in backward], rtol=1e-5)
    assert [s.greedy for s in forward] == [s.greedy for s in backward]


def test_what_the_model_would_say_is_greedy(model: Decoder):
    tokens = [1, 5]
    for _ in range(3):
        padded = jnp.asarray([tokens + [0] * (8 - len(tokens))])
        tokens.append(int(logits_of(model, padded)[0, len(tokens) - 1].argmax()))
    other = [*tokens[:-1], (tokens[-1] + 1) % model.config.vocab_size]
    right, wrong = Scorer(model, context=64, batch_tokens=128).score([(tokens, 2), (other, 2)])
    assert right.greedy and not wrong.greedy


def test_few_programs_for_many_lengths(model: Decoder):
    scorer = Scorer(model, context=200, batch_tokens=256)
    scorer.score(random_texts(30, [*range(2, 400, 13)], model.config.vocab_size))
    assert scorer.compiled._cache_size() <= 3  # 64, 128, 200


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("first", [1, 5, 12, 30])
def test_every_token_is_predicted_once_with_the_promised_context(length: int, stride: int, first: int):
    tokens = np.arange(length)
    seen = []
    for number, window in enumerate(windows(tokens, first, context=8, stride=stride)):
        scored = window.tokens[len(window.tokens) - window.scored :]
        seen += scored.tolist()
        assert len(window.tokens) <= 9 and 0 < window.scored < len(window.tokens)
        if number > 0:
            assert len(window.tokens) - window.scored >= 8 - stride
    assert seen == list(range(first, length))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 20, 24])
def test_a_full_stride_is_lm_evals_rolling_rule(length: int):
    ids = list(range(10, 10 + length))
    theirs = list(get_rolling_token_windows(ids, prefix_token=1, max_seq_len=8, context_len=1))
    ours = list(windows([1, *ids], 1, context=8, stride=8))
    assert [(w.tokens[:-1].tolist(), w.tokens[-w.scored :].tolist()) for w in ours] == [
        (list(inputs), list(predicted)) for inputs, predicted in theirs
    ]


def test_windows_of_half_a_context_equal_their_own_full_forwards(model: Decoder):
    ((tokens, _),) = [([1, *range(5, 100)], 1)]
    (score,) = Scorer(model, context=32, batch_tokens=128).score([(tokens, 1)], stride=16)
    slow = slow_score(model, tokens[:33], 1)[0]
    for end in range(33 + 16, len(tokens) + 16, 16):
        end, done = min(end, len(tokens)), end - 16
        begin = end - 33
        slow += slow_score(model, tokens[begin:end], done - begin)[0]
    assert score.nats == pytest.approx(slow, rel=1e-5)
    assert score.tokens == len(tokens) - 1
