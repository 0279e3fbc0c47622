"""Tokens are drawn from the distribution that was asked for, each row for itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.generate import sampling
from maxllm.generate.request import SamplingParams
from maxllm.generate.result import unpack_logprobs
from maxllm.generate.sampling import RowSampling

keep_likeliest, sample, token_logprobs = map(
    jax.jit, (sampling.keep_likeliest, sampling.sample, sampling.token_logprobs)
)


def rows(*params: SamplingParams) -> RowSampling:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *[RowSampling.of(one, True) for one in params])


def sorted_twin(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Which tokens stay, by sorting: the k likeliest; of those, the fewest whose mass reaches top_p."""
    order = np.argsort(-logits, kind="stable")[: top_k or len(logits)]
    mass = np.exp(logits[order] - logits.max(), dtype=np.float64)
    before = np.cumsum(mass) - mass
    kept = np.zeros(len(logits), bool)
    kept[order[before < top_p * mass.sum()]] = True
    return kept


@pytest.mark.parametrize("top_k", [0, 1, 3, 50, 1000])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 1.0])
def test_thresholds_by_bits_keep_what_sorting_keeps(top_k, top_p):
    logits = np.random.default_rng(top_k).normal(0, 3, (8, 300)).astype(np.float32)
    kept = keep_likeliest(jnp.asarray(logits), jnp.full(8, top_k), jnp.full(8, top_p, jnp.float32))
    np.testing.assert_array_equal(np.isfinite(kept), [sorted_twin(row, top_k, top_p) for row in logits])


def test_ties_with_the_last_token_kept_are_kept():
    kept = keep_likeliest(jnp.asarray([[1.0, 2.0, 2.0, 0.0]]), jnp.array([1]), jnp.array([1.0]))
    assert np.isfinite(kept).tolist() == [[False, True, True, False]]


def test_top_p_is_of_the_tempered_distribution():
    # Tempered by 8, probabilities .5 .3 .2 are nearly equal: .75 then takes all three, where it took two.
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    params = rows(SamplingParams(temperature=8.0, top_p=0.75))
    drawn = {int(sample(logits, jnp.array([position]), params)[0]) for position in range(60)}
    assert drawn == {0, 1, 2}  # masked before tempering, the third would never come
    assert {int(sample(logits, jnp.array([p]), rows(SamplingParams(top_p=0.75)))[0]) for p in range(60)} == {0, 1}


def test_draws_follow_the_softmax():
    logits = jnp.array([1.0, 0.0, -1.0, 2.0])
    count, temperature = 4000, 1.7
    params = jax.tree.map(lambda part: np.repeat(part, count, 0), rows(SamplingParams(temperature=temperature, seed=3)))
    drawn = np.asarray(sample(jnp.tile(logits, (count, 1)), jnp.arange(count), params))
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    observed = np.bincount(drawn, minlength=4) / count
    np.testing.assert_allclose(observed, expected, atol=4 * np.sqrt(0.25 / count))


def test_a_draw_depends_on_seed_and_position_not_on_row_or_company():
    logits = jax.random.normal(jax.random.key(0), (5, 100))
    params = [
        SamplingParams(temperature=t, top_k=k, seed=s)
        for t, k, s in ((1, 0, 1), (2, 5, -7), (0, 0, 2), (0.5, 0, 2**70), (1, 3, 5))
    ]
    positions = jnp.array([4, 9, 2, 7, 7])
    together = sample(logits, positions, rows(*params))
    reversed_ = sample(logits[::-1], positions[::-1], rows(*params[::-1]))[::-1]
    alone = [int(sample(logits[i : i + 1], positions[i : i + 1], rows(params[i]))[0]) for i in range(5)]
    assert together.tolist() == reversed_.tolist() == alone
    assert alone[2] == int(logits[2].argmax())


def test_logprobs_are_the_log_softmax_of_the_raw_logits():
    logits = jax.random.normal(jax.random.key(1), (3, 50)) * 4
    expected = np.asarray(jax.nn.log_softmax(logits))
    packed = np.asarray(token_logprobs(logits, jnp.array([7, 8, 9])))
    for row in range(3):
        got = unpack_logprobs(7 + row, packed[row], 5)
        assert got.logprob == pytest.approx(expected[row, 7 + row], abs=1e-5)
        likeliest = np.argsort(-expected[row])[:5]
        assert [token for token, _ in got.top] == likeliest.tolist()
        np.testing.assert_allclose([value for _, value in got.top], expected[row, likeliest], atol=1e-5)
