"""Attention of rows that lie spread over devices is the attention of one device."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.kernels import attention_pair
from maxllm.kernels.attention import attention
from maxllm.kernels.masking import Masking
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.sequence import balanced

METHODS = ["ring", "all_gather"]
TOLERANCE = 1e-5  # relative L2, float32
PLAIN, LOCAL = Masking(), Masking(window=7)
CAPPED = Masking(softcap=2.0, scale=0.5)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in short sequences, and a last one that is not full."""
    monkeypatch.setattr(attention_pair, "CPU_BLOCK", 4)


def mesh_of(**axes: int):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: int(np.prod(list(axes.values())))])


def inputs(length: int = 48, batch: int = 2, heads: int = 4, kv_heads: int = 2, head_dim: int = 8):
    """Query, key, value, the output's gradient; and documents that end within stretches, the last one padding."""
    generator = np.random.default_rng(0)
    shapes = [(batch, length, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    ids = np.sort(generator.integers(0, 4, (batch, length)), axis=1)
    ids = np.where(ids == 3, 0, ids + 1).astype(np.int32)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes], ids


def output_and_gradients(query, key, value, gradient, segment_ids, masking, backend="reference", method="ring"):
    def run(*arrays):
        return attention(*arrays, segment_ids=segment_ids, masking=masking, backend=backend, context=method)

    output, pull = jax.vjp(run, query, key, value)
    return output, *pull(gradient)


def on_one_device(arrays, segment_ids, masking):
    return jax.jit(lambda *a: output_and_gradients(*a, segment_ids, masking))(*arrays)


def spread(arrays, segment_ids, masking, method, **axes):
    """The same on a mesh, from and to the row's own order."""
    order = balanced(arrays[0].shape[1], axes["context"])
    ids = None if segment_ids is None else segment_ids[:, order]
    with jax.set_mesh(mesh_of(**axes)):
        run = jax.jit(lambda *a: output_and_gradients(*a, ids, masking, method=method))
        return [np.asarray(x)[:, np.argsort(order)] for x in run(*(x[:, order] for x in arrays))]


def assert_close(got, want):
    for name, a, b in zip(("output", "d query", "d key", "d value"), got, want, strict=True):
        difference = np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"


@pytest.mark.parametrize(
    "method, axes, packed, masking",
    [
        ("ring", {"context": 4, "tensor": 2}, True, PLAIN),
        ("ring", {"context": 8}, True, LOCAL),
        ("all_gather", {"context": 4, "fsdp": 2}, True, LOCAL),
        slow("ring", {"context": 2, "data": 2, "tensor": 2}, False, CAPPED),
        slow("ring", {"context": 8}, False, PLAIN),
        slow("ring", {"context": 8}, True, CAPPED),
        slow("ring", {"context": 4}, False, Masking(window=20)),
        slow("ring", {"context": 8}, False, Masking(window=2)),
        slow("ring", {"context": 4, "fsdp": 2}, True, Masking(causal=False, window=9)),
        slow("ring", {"context": 2}, False, Masking(causal=False)),
        slow("all_gather", {"context": 2, "data": 2, "tensor": 2}, False, CAPPED),
        slow("all_gather", {"context": 8}, True, PLAIN),
        slow("all_gather", {"context": 4}, False, Masking(causal=False, window=9)),
        slow("all_gather", {"context": 2}, True, Masking(causal=False)),
    ],
    ids=str,
)
def test_spread_over_devices_output_and_gradients_are_those_of_one(method, axes, packed, masking):
    arrays, ids = inputs()
    ids = ids if packed else None
    assert_close(spread(arrays, ids, masking, method, **axes), on_one_device(arrays, ids, masking))


@pytest.mark.parametrize("method", [slow("ring"), slow("all_gather")])
@pytest.mark.parametrize("heads, kv_heads, batch", [(6, 3, 2), (4, 4, 1), (8, 1, 3)])
def test_what_a_mesh_does_not_divide_is_computed_whole(method, heads, kv_heads, batch):
    """Three rows over two devices, three or one kv heads over two: each device computes all of them."""
    arrays, ids = inputs(length=40, batch=batch, heads=heads, kv_heads=kv_heads)
    axes = {"context": 2, "data": 2, "tensor": 2}
    assert_close(spread(arrays, ids, PLAIN, method, **axes), on_one_device(arrays, ids, PLAIN))


@pytest.mark.parametrize("method", ["ring", slow("all_gather")])
def test_under_a_vmap_over_pipeline_stages(method):
    """The pipeline runs all stages as one vmap whose axis is the mesh's `stage`."""
    arrays, ids = inputs(length=24)
    stages = [np.stack([x, 2 * x]) for x in arrays]
    both_ids = np.stack([ids, ids[::-1]])
    order = balanced(24, 2)

    def stage(query, key, value, gradient, ids):
        return output_and_gradients(query, key, value, gradient, ids, PLAIN, method=method)

    with jax.set_mesh(mesh_of(stage=2, context=2, tensor=2)):
        run = jax.jit(jax.vmap(stage, spmd_axis_name="stage"))
        got = run(*(x[:, :, order] for x in stages), both_ids[:, :, order])
    for number in range(2):
        want = on_one_device([x[number] for x in stages], both_ids[number], PLAIN)
        assert_close([np.asarray(x)[number][:, np.argsort(order)] for x in got], want)


def compiled(method: str, policy=None, length: int = 64, window: int | None = None) -> jax.stages.Compiled:
    """Output and gradients on a ring of eight, rematerialised by `policy`."""
    arrays, _ = inputs(length=length)

    def run(query, key, value, gradient):
        function = jax.checkpoint(
            lambda *a: attention(*a, masking=Masking(window=window), context=method), policy=policy
        )
        output, pull = jax.vjp(function, query, key, value)
        return output, *pull(gradient)

    with jax.set_mesh(mesh_of(context=8)):
        return jax.jit(run).lower(*arrays).compile()


def count(program: jax.stages.Compiled, operation: str) -> int:
    return len(re.findall(rf" {operation}\(", program.as_text()))


@pytest.mark.slow
def test_with_attention_saved_the_ring_runs_once_forward_and_once_backward():
    saved = jax.checkpoint_policies.save_only_these_names("attention", "attention_denominator")
    assert count(compiled("ring", saved), "collective-permute") < count(compiled("ring"), "collective-permute")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_memory_grows_linearly_with_length(method):
    bytes_at = [compiled(method, length=length).memory_analysis().temp_size_in_bytes for length in (2048, 4096)]
    assert bytes_at[1] < 2.2 * bytes_at[0]


def test_a_length_that_cannot_be_dealt_out_is_one_sentence():
    arrays, _ = inputs(length=12)
    with jax.set_mesh(mesh_of(context=4)), pytest.raises(UserError, match="12 tokens cannot be cut into 8"):
        attention(*arrays[:3])
