"""JetStream's contract, and what is drawn through it is what the training model would draw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.config.serve import EngineConfig
from maxllm.generate.engine import Engine
from maxllm.generate.request import SamplingParams
from maxllm.generate.result import unpack_logprobs
from maxllm.generate.sampling import RowSampling
from maxllm.models import create
from maxllm.parallel.mesh import make_mesh


def start(engine, state, prompt, slot, count, **options):
    prefix, first = engine.prefill(
        params=engine.params, padded_tokens=engine.pad(prompt), true_length=len(prompt), max_tokens=count, **options
    )
    return engine.insert(prefix, state, slot), first.convert_to_numpy().get_result_at_slot(0).token


def decode(engine, state, steps, **bounds):
    """The state, and tokens `[steps][row]`; -1 where the row is idle."""
    drawn = []
    for _ in range(steps):
        state, result = engine.generate(engine.params, state, **bounds)
        result = result.convert_to_numpy()
        drawn.append([row[0] if row[1] else -1 for row in result.data.tolist()])
    return state, drawn


def test_one_slot_alone_says_what_the_uncached_model_says(engine, prompts, greedy):
    state, first = start(engine, engine.init_decode_state(), prompts[3], 2, 20)
    _, drawn = decode(engine, state, 19)
    assert (first, *[step[2] for step in drawn]) == greedy(prompts[3], 20)


def test_every_bucket_of_rows_and_positions_says_the_same(engine, prompts, greedy):
    expected = greedy(prompts[2], 6)
    assert len(engine.row_buckets) > 1 and len(engine.length_buckets) > 1
    for rows in engine.row_buckets:
        for length in engine.length_buckets:
            state, first = start(engine, engine.init_decode_state(), prompts[2], 0, 6)
            _, drawn = decode(engine, state, 5, rows=rows, length=length)
            assert (first, *[step[0] for step in drawn]) == expected, (rows, length)


def test_cached_logits_equal_uncached(engine, model, prompts, forward):
    """Through prefill and steps, in a slot that is not the first: the logprobs tell the logits."""
    prompt, count = prompts[4], 12
    asked = RowSampling.greedy(1)._replace(logprobs=np.array([True]))
    arguments = {"params": engine.params, "padded_tokens": engine.pad(prompt), "true_length": len(prompt)}
    prefix, first = engine.prefill(**arguments, sampling=asked, max_tokens=count)
    state = engine.insert(prefix, engine.init_decode_state(), 3)
    ids, rows = list(prompt), [first.convert_to_numpy().get_result_at_slot(0)]
    for _ in range(count - 1):
        state, result = engine.generate(engine.params, state)
        rows.append(result.convert_to_numpy().get_result_at_slot(3))
    for row in rows:
        expected = np.asarray(jax.nn.log_softmax(forward(ids)[-1]))
        got = unpack_logprobs(row.token, row.logprobs, 5)
        assert got.logprob == pytest.approx(expected[row.token], abs=2e-5)
        for token, value in got.top:
            assert value == pytest.approx(expected[token], abs=2e-5)
        ids.append(row.token)


def test_a_slot_stops_by_itself_or_when_freed_and_others_go_on(engine, prompts, greedy):
    state = engine.init_decode_state()
    for slot, count in ((0, 3), (1, 10), (2, 10)):
        state, _ = start(engine, state, prompts[slot], slot, count)
    state, drawn = decode(engine, state, 4)
    assert [row[0] == -1 for row in drawn] == [False, False, True, True]
    state = engine.free_resource(1, state)
    state, drawn = decode(engine, state, 2)
    assert [row[1] for row in drawn] == [-1, -1]
    assert tuple(row[2] for row in drawn) == greedy(prompts[2], 7)[5:]


def test_nothing_of_a_slots_last_tenant_reaches_the_next(engine, prompts, greedy):
    state = engine.init_decode_state()
    nan = jax.tree.map(lambda part: jnp.full_like(part, jnp.nan), state.cache)
    state = state._replace(cache=jax.device_put(nan, jax.tree.map(lambda part: part.sharding, state.cache)))
    state, first = start(engine, state, prompts[1], 1, 30)
    _, drawn = decode(engine, state, 29)
    assert (first, *[row[1] for row in drawn]) == greedy(prompts[1], 30)


def test_a_row_whose_logits_are_not_finite_is_not_valid(engine, prompts):
    state, _ = start(engine, engine.init_decode_state(), prompts[1], 1, 30)
    poison = state.cache.values.at[:, 1].set(jnp.nan)
    state = state._replace(cache=state.cache._replace(values=jax.device_put(poison, state.cache.values.sharding)))
    state, _ = start(engine, state, prompts[2], 0, 30)
    _, drawn = decode(engine, state, 2)
    assert [row[1] for row in drawn] == [-1, -1] and all(row[0] >= 0 for row in drawn)


def test_prompt_scores_are_the_forward_passes(engine, prompts, forward):
    prompt = prompts[8]
    padded = engine.pad(prompt)
    prefix, _ = engine.prefill(params=engine.params, padded_tokens=padded, true_length=len(prompt))
    scores = np.asarray(engine.score(engine.params, prefix, padded))
    expected = np.asarray(jax.nn.log_softmax(forward(prompt)))
    for i, token in enumerate(prompt[1:]):
        assert unpack_logprobs(token, scores[i], 5).logprob == pytest.approx(expected[i, token], abs=2e-5)


def test_nothing_compiles_after_warm_up(engine, prompts):
    compiled = []

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x * 3 + len(compiled))(1.0)
    assert compiled  # the listener hears
    compiled.clear()
    state = engine.init_decode_state()
    for slot, prompt in enumerate(prompts[:4]):
        state, _ = start(engine, state, prompt, slot, 4, sampling=RowSampling.of(SamplingParams(), True))
    for rows in engine.row_buckets:
        for length in engine.length_buckets:
            state, _ = decode(engine, state, 1, rows=rows, length=length)
    engine.free_resource(0, state)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_one_small_array_goes_to_the_host(engine):
    _, result = engine.generate(engine.params, engine.init_decode_state())
    assert len(jax.tree.leaves(result)) == 1 and result.data.dtype == jnp.int32
    assert result.data.shape == (engine.max_concurrent_decodes, 3 + 11)


def test_tensor_parallel_says_the_same(model_config, prompts):
    """Two devices against one, the same seed: parameters and cache split by heads."""
    config, compute = EngineConfig(slots=2, prefill_buckets=[96]), ComputeConfig(dtype="float32")
    texts = []
    for tensor in (1, 2):
        mesh = make_mesh(MeshConfig(tensor=tensor), jax.devices()[:tensor])
        engine = Engine(create(model_config, compute, mesh, seed=1), config)
        state = engine.init_decode_state()
        assert state.cache.keys.sharding.shard_shape(state.cache.keys.shape)[2] == model_config.num_kv_heads // tensor
        firsts = []
        for slot in range(2):
            state, first = start(engine, state, prompts[4 * slot], slot, 12)
            firsts.append(first)
        state, drawn = decode(engine, state, 11)
        assert state.cache.keys.sharding.shard_shape(state.cache.keys.shape)[2] == model_config.num_kv_heads // tensor
        texts.append([firsts, *drawn])
    assert texts[0] == texts[1]


def test_bfloat16_keeps_weights_and_cache_in_two_bytes(model, prompts):
    engine = Engine(model, EngineConfig(slots=1, dtype="bfloat16", prefill_buckets=[96]))
    state, first = start(engine, engine.init_decode_state(), prompts[3], 0, 3)
    assert state.cache.keys.dtype == jnp.bfloat16
    assert {str(leaf.dtype) for leaf in engine.params} == {"bfloat16", "float32"}  # float32: the norms
    _, drawn = decode(engine, state, 2)
    assert first >= 0 and all(row[0] >= 0 for row in drawn)


def test_longer_than_the_model_is_refused(model):
    with pytest.raises(UserError, match="max_length 97 is longer than the model's 96"):
        Engine(model, EngineConfig(max_length=97))
