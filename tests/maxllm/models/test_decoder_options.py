"""What holds whatever a decoder is assembled from: packed equals unpacked, cached equals uncached, gradients finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.kernels import query_blocks
from maxllm.models import KVCache, create
from maxllm.parallel.mesh import make_mesh, single_device_mesh
from maxllm.parallel.rules import check_layout

SHAPE = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 16, "num_layers": 2, "max_positions": 32}
SHAPE |= {"num_heads": 6, "num_kv_heads": 6, "init_std": 0.3}
YARN = {"kind": "yarn", "factor": 4.0, "original_positions": 4}
GEMMA = {"window": 3, "attention_softcap": 5.0, "logits_softcap": 3.0, "attention_scale": 0.3, "query_key_norm": True}
GEMMA |= {"global_every": 2, "rope_local_theta": 100.0, "norm_placement": "both", "num_kv_heads": 2}
CASES = {
    "alibi": {"positions": "alibi", "num_kv_heads": 3, "window": 4, "global_every": 2},
    "dual-chunk": {"dual_chunk": {"chunk": 3, "local": 2}, "num_kv_heads": 1, "rope_scaling": YARN},
    "softcaps-windows-by-turns": GEMMA,
}
SLOW = {
    "sinusoidal-post": {"positions": "sinusoidal", "norm": "layer", "norm_placement": "post", "gated": False},
    "last-round-cut-short": GEMMA | {"num_layers": 5, "global_every": 3},
    "learned": {"positions": "learned", "norm": "layer", "biases": ("query_key_value", "output", "mlp")},
    "no-positions": {"positions": "none"},
    "window": {"window": 3, "num_kv_heads": 3},
    "multi-query-norms": {"num_kv_heads": 1, "query_key_norm": True, "rope_scaling": YARN},
    **{
        kind: {"rope_scaling": {"kind": kind, "factor": 2.0, "original_positions": 4}}
        for kind in ("linear", "dynamic", "llama3")
    },
}


def everything(config: ModelConfig) -> None:
    """A row with segments of 5 and 8 tokens, a row with the second of them alone, and it through the cache, two tokens
    at a time."""
    structure, parameters = nnx.split(create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0))
    own = np.random.default_rng(0).integers(0, 32, 8)
    tokens = jnp.asarray([[*range(5), *own, 0], [*own, *range(6)]], jnp.int32)
    positions = jnp.asarray([[*range(5), *range(8), 0], [*range(8), *range(6)]], jnp.int32)
    ids = jnp.asarray([[1] * 5 + [2] * 8 + [0], [1] * 8 + [0] * 6], jnp.int32)

    def run(parameters):
        def loss(parameters):
            logits = nnx.merge(structure, parameters)(tokens, positions, ids)
            return jnp.mean(jnp.square(logits[0, :13])), logits

        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        model = nnx.merge(structure, parameters)

        def step(cache, at):
            hidden, cache = model.extend(*at, cache)
            return cache, hidden[0]

        pairs = (tokens[1, :8].reshape(4, 1, 2), positions[1, :8].reshape(4, 1, 2))
        _, hidden = jax.lax.scan(step, KVCache.zeros(config, 1, 10, jnp.float32), pairs)
        return logits[0, 5:13], logits[1, :8], model.logits(hidden.reshape(8, -1)), gradients

    packed, alone, cached, gradients = jax.jit(run)(parameters)
    # Weights are large, so that a wrong key shows; five layers of them make float32's rounding 1e-5.
    tolerance = 5e-5 * max(1.0, float(jnp.std(alone)))
    np.testing.assert_allclose(packed, alone, rtol=0, atol=tolerance)
    np.testing.assert_allclose(cached, alone, rtol=0, atol=tolerance)
    assert float(jnp.std(alone)) > 0.01
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.isfinite(gradient[...]).all() and np.any(gradient[...]), path


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    before, query_blocks.BLOCK = query_blocks.BLOCK, 4
    yield
    query_blocks.BLOCK = before


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_packed_equals_unpacked_and_cached_equals_uncached(name):
    everything(ModelConfig(**(SHAPE | (CASES | SLOW)[name])))


SCALINGS = [None, *({"kind": k, "factor": 2.0, "original_positions": 4} for k in ("linear", "dynamic", "yarn"))]
ROTARY = st.fixed_dictionaries({"rope_scaling": st.sampled_from(SCALINGS)})
WINDOWS = st.sampled_from([{}, {"window": 3}, {"window": 2, "global_every": 2}, {"window": 4, "global_every": 4}])
POSITIONS = st.one_of(
    st.builds(dict.__or__, ROTARY, WINDOWS),
    ROTARY.filter(lambda rotary: (rotary["rope_scaling"] or {}).get("kind") != "dynamic").map(
        lambda rotary: rotary | {"dual_chunk": {"chunk": 2, "local": 1}}
    ),
    st.builds(
        lambda positions, window: {"positions": positions} | window,
        st.sampled_from(["alibi", "sinusoidal", "learned", "none"]),
        WINDOWS,
    ),
)
OTHERS = st.fixed_dictionaries(
    {
        "num_kv_heads": st.sampled_from([6, 3, 2, 1]),
        "num_layers": st.integers(1, 5),
        "query_key_norm": st.booleans(),
        "attention_softcap": st.sampled_from([None, 2.0]),
        "attention_scale": st.sampled_from([None, 0.2]),
        "norm": st.sampled_from(["rms", "layer", "rms_plus_one"]),
        "norm_placement": st.sampled_from(["pre", "post", "both"]),
        "biases": st.sampled_from([(), ("query_key_value",), ("output", "mlp")]),
        "gated": st.booleans(),
    }
)


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example compiles for seconds: looking for a smaller one takes an hour
    suppress_health_check=list(HealthCheck),
)
@given(positions=POSITIONS, others=OTHERS)
def test_any_assembly_keeps_them(positions, others):
    everything(ModelConfig(**(SHAPE | positions | others)))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"dual_chunk": {"chunk": 4, "local": 2}, "window": 3}, "dual_chunk does not go with a window"),
        ({"dual_chunk": {"chunk": 4, "local": 4}}, "local 4 is not below chunk 4"),
        ({"dual_chunk": {"chunk": 4, "local": 2}, "positions": "alibi"}, "set positions to rope, not alibi"),
        ({"dual_chunk": {"chunk": 4, "local": 2}, "rope_scaling": {"kind": "dynamic"}}, "cannot be dynamic"),
        ({"rope_scaling": {}, "positions": "learned"}, "rope_scaling: it is of rotary positions"),
        ({"positions": "relative"}, "positions relative: a decoder alone has"),
        ({"positions": "sinusoidal", "hidden_size": 21, "num_heads": 3, "num_kv_heads": 3}, "hidden_size 21 is odd"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_a_sentence(settings, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(**(SHAPE | settings))


@pytest.mark.parametrize("name", ["alibi", "dual-chunk"])
def test_rows_spread_over_context_are_refused(name):
    with pytest.raises(UserError, match="model.(positions alibi|dual_chunk): .* use mesh.context=1"):
        check_layout(ModelConfig(**(SHAPE | CASES[name])), MeshConfig(context=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alibi", "dual-chunk"])
def test_eight_devices_and_remat_change_nothing(name):
    config = ModelConfig(**(SHAPE | {"num_heads": 4} | CASES[name] | {"num_kv_heads": 2}))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, 14)), jnp.int32)
    positions = jnp.asarray([[*range(5), *range(9)]] * 4, jnp.int32)
    ids = jnp.asarray([[1] * 5 + [2] * 9] * 4, jnp.int32)

    def loss_and_gradients(mesh, remat):
        structure, parameters = nnx.split(create(config, ComputeConfig(dtype="float32", remat=remat), mesh, seed=0))

        def loss(parameters):
            return jnp.mean(jnp.square(nnx.merge(structure, parameters)(tokens, positions, ids)))

        with jax.set_mesh(mesh):
            return jax.jit(jax.value_and_grad(loss))(parameters)

    want = loss_and_gradients(single_device_mesh(), "none")
    got = loss_and_gradients(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), "attention")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
