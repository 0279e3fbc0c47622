"""The kernels for chips that are not here, compiled by those chips' own compilers: forward and backward, packed."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from maxllm import models
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.kernels.attention import attention
from maxllm.kernels.masking import CAUSAL, Masking
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import layout, shardings
from maxllm.plan.machines import machine
from maxllm.plan.targets import devices, environment

# These compilers make nothing that JAX's cache of compiled programs could read again.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")]
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def mesh_of(name: str, **sizes: int):
    try:
        environment(machine(name))
        return make_mesh(MeshConfig(**sizes), devices(machine(name)))
    except UserError as error:
        pytest.skip(f"the compiler for {name} is absent, attention was NOT compiled for it: {error}")


def shape(mesh, dimensions, axes, dtype):
    return jax.ShapeDtypeStruct(dimensions, dtype, sharding=NamedSharding(mesh, layout(mesh, dimensions, axes)))


def compiled(mesh, *, length=1024, heads=8, kv_heads=4, head_dim=128, dtype=jnp.bfloat16, masking=CAUSAL, packed=True,
             backend="auto"):  # fmt: skip
    """The program's text, and how often it calls each kernel."""

    def run(query, key, value, cotangent, segment_ids):
        output, pull = jax.vjp(
            lambda *x: attention(*x, segment_ids=segment_ids, masking=masking, backend=backend), query, key, value
        )
        return output, pull(cotangent)

    by_head = [
        shape(mesh, (4, length, n, head_dim), ("batch", None, axis, None), dtype)
        for n, axis in ((heads, "heads"), (kv_heads, "kv_heads"), (kv_heads, "kv_heads"), (heads, "heads"))
    ]
    ids = shape(mesh, (4, length), ("batch", None), jnp.int32) if packed else None
    with jax.set_mesh(mesh):
        text = jax.jit(run).lower(*by_head, ids).compile().as_text()
    return text, calls(text)


def calls(text: str) -> Counter[str]:
    return Counter(re.findall(r'custom_call_target="(tpu_custom_call|__cudnn\$fmha\w+|mosaic_gpu\w*)"', text))


@pytest.mark.parametrize("name", ["v5e-8", "v5p-8", "v6e-8"])
def test_splash_compiles_for_tpus_and_needs_no_word_from_other_devices(name):
    mesh = mesh_of(name, fsdp=-1, tensor=2)
    for options in (
        {},
        {"head_dim": 64, "masking": Masking(window=300, softcap=50.0), "length": 1000},
        {"head_dim": 256, "masking": Masking(causal=False), "dtype": jnp.float32, "packed": False},
    ):
        text, kernels = compiled(mesh, **options)
        assert kernels == {"tpu_custom_call": 3}  # forward; d query; d key and d value
        assert not any(collective in text for collective in COLLECTIVES)


def test_cudnn_compiles_for_hopper_with_the_offsets_of_packed_documents():
    mesh = mesh_of("h100x4", fsdp=2, tensor=2)
    fused = {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}
    for packed, masking, head_dim in ((False, CAUSAL, 128), (True, CAUSAL, 64), (True, Masking(window=300), 256)):
        text, kernels = compiled(mesh, packed=packed, masking=masking, head_dim=head_dim)
        assert kernels == fused
        assert not any(collective in text for collective in COLLECTIVES)
        assert ('"mask_type": "PADDING_CAUSAL"' in text) == packed
        assert ('"max_seg_per_batch": 8' in text) == packed  # 1024 / 128
        if packed:  # 2 rows here: 2 · 8 lengths, and offsets one longer per row
            forward = next(line for line in text.splitlines() if 'fmhaSoftmax"' in line)
            assert forward.count("s32[2,8]") == 2 and forward.count("s32[2,9]") == 2


def test_mosaic_compiles_for_hopper_with_a_range_of_keys_per_query():
    if importlib.util.find_spec("tokamax") is None:
        pytest.skip("tokamax is absent: its kernel was NOT compiled")
    mesh = mesh_of("h100x4", fsdp=2, tensor=2)
    for masking, head_dim in ((CAUSAL, 128), (Masking(window=300, softcap=50.0), 64)):
        _, kernels = compiled(mesh, masking=masking, head_dim=head_dim, backend="mosaic")
        assert sum(kernels.values()) == 3 and all(name.startswith("mosaic_gpu") for name in kernels)


def test_float32_on_hopper_compiles_without_a_fused_kernel():
    mesh = mesh_of("h100x4", fsdp=2, tensor=2)
    assert not compiled(mesh, dtype=jnp.float32, length=256)[1]


@pytest.mark.parametrize(
    "name, forward, backward",
    [("v5e-8", {"tpu_custom_call": 1}, {"tpu_custom_call": 2}),
     ("h100x4", {"__cudnn$fmhaSoftmax": 1}, {"__cudnn$fmhaSoftmaxBackward": 1})],
)  # fmt: skip
def test_remat_runs_the_forward_kernel_again_only_where_it_says_so(name, forward, backward):
    """A model of two layers: the scan's body is there once forward and once backward."""
    mesh = mesh_of(name, fsdp=-1)
    config = ModelConfig(vocab_size=512, hidden_size=256, intermediate_size=512, num_layers=2, num_heads=2,
                         num_kv_heads=2, head_dim=128)  # fmt: skip

    def kernels(remat: str) -> Counter[str]:
        structure, parameters = models.abstract(config, ComputeConfig(remat=remat))

        def loss(parameters, tokens):
            model = nnx.merge(structure, parameters)
            return model(tokens, tokens, tokens).mean()

        where = shardings(parameters, mesh)
        parameters = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), parameters, where)
        tokens = shape(mesh, (8, 512), ("batch", None), jnp.int32)
        with jax.set_mesh(mesh):
            return calls(jax.jit(jax.grad(loss)).lower(parameters, tokens).compile().as_text())

    once = Counter(forward) + Counter(backward)
    assert kernels("attention") == once
    assert kernels("full") == once + Counter(forward)
