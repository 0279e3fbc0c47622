"""What is sent between devices: groups, axes, bytes and how often, against programs whose traffic is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from maxllm.plan.collectives import collectives, phase, totals, wire
from maxllm.plan.hlo import parse
from maxllm.plan.replicas import mesh_axes_of, parse_groups, smallest

P = PartitionSpec
MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("{}", ((0, 1, 2, 3),)),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("[4,2]<=[2,2,2]T(0,2,1)", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", ((0, 1), (2, 3))),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", ((0, 2), (1, 3))),
        ("mesh['axis_0'=1,'axis_1'=4] {'axis_0','axis_1'}", ((0, 1, 2, 3),)),
        ("mesh[a=2,b=2] {b,a}", ((0, 2, 1, 3),)),
        ("mesh['a'=8] {'a':(1)2}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=8] {'a':(4)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]<=[2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
    ],
)
def test_replica_groups_in_every_form(text, groups):
    assert parse_groups(text, 4) == groups


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="not known"):
        parse_groups("maximal_mesh[device_id=0]", 4)


def test_groups_are_named_by_the_axes_they_run_along():
    sizes = {"data": 2, "stage": 1, "fsdp": 4, "tensor": 2}
    places = np.arange(16).reshape(2, 1, 4, 2)
    along = {
        "tensor": places.reshape(-1, 2),
        "fsdp": places.transpose(0, 1, 3, 2).reshape(-1, 4),
        "data": places.transpose(1, 2, 3, 0).reshape(-1, 2),
        "data x tensor": places.transpose(1, 2, 0, 3).reshape(-1, 4),
        "data x fsdp x tensor": places.reshape(1, 16),
    }
    for name, groups in along.items():
        assert mesh_axes_of(tuple(map(tuple, groups)), sizes) == name
    halves = tuple(map(tuple, places.transpose(0, 1, 3, 2).reshape(-1, 2)))  # of the four along fsdp, two and two
    assert mesh_axes_of(halves, sizes) == "part of fsdp"
    assert smallest(((0, 2), (9, 15)), sizes) == "fsdp"
    assert mesh_axes_of(((0,), (1,)), sizes) == "none"


def compiled(function, in_specs, out_specs, *shapes):
    mesh = jax.make_mesh((2, 2, 2), tuple(MESH), axis_types=(AxisType.Auto,) * 3)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    with jax.set_mesh(mesh):
        text = jax.jit(mapped).lower(*(jnp.zeros(shape, jnp.float32) for shape in shapes)).compile().as_text()
    return collectives(parse(text), MESH)


ROWS = P(("data", "fsdp", "tensor"))


@pytest.mark.parametrize(
    ("function", "out", "kind", "axes", "full", "wired"),
    [
        (lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), P(("data", "tensor")), "all-gather", "fsdp", 512, 256),
        (lambda x: jax.lax.psum(x, ("data", "tensor")), P("fsdp"), "all-reduce", "data x tensor", 256, 384),
        (
            lambda x: jax.lax.psum_scatter(x, "tensor", scatter_dimension=0, tiled=True),
            P(("data", "fsdp", "tensor")),
            "reduce-scatter",
            "tensor",
            256,
            128,
        ),
        (
            lambda x: jax.lax.all_to_all(x, "data", 0, 1, tiled=True),
            P(("fsdp", "tensor"), "data"),
            "all-to-all",
            "data",
            256,
            128,
        ),
        (lambda x: jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)]), ROWS, "collective-permute", "tensor", 256, 256),
    ],
    ids=["all-gather", "all-reduce", "reduce-scatter", "all-to-all", "permute"],
)
def test_each_kind_has_its_bytes_and_axes(function, out, kind, axes, full, wired):
    (found,) = compiled(function, ROWS, out, (64, 8))  # a device holds [8, 8] float32: 256 bytes
    assert (found.kind, found.axes, found.bytes, found.wire_bytes) == (kind, axes, full, wired)
    assert (found.dtype, found.executions, found.exact) == ("f32", 1, True)


def test_a_loops_trips_multiply():
    def body(x, _):
        return x + jnp.tanh(jax.lax.psum(x, "fsdp")), None

    found = compiled(lambda x: jax.lax.scan(body, x, None, length=7)[0], ROWS, ROWS, (64, 8))
    ((key, total),) = totals(found).items()
    assert key == ("all-reduce", "fsdp")
    assert (total.executions, total.bytes, total.wire_bytes) == (7, 7 * 256, 7 * 256)


TPU_STEPS = """HloModule jit_step

%start (a: bf16[12,192]) -> (bf16[12,192], bf16[192,192], u32[]) {
  %a = bf16[12,192]{1,0} parameter(0)
  %g.1 = bf16[192,192]{1,0} all-gather(%a), channel_id=70, replica_groups=mesh['axis_0'=16,'axis_1'=1] {'axis_0'}, \
dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="6"}
  ROOT %c.1 = (bf16[12,192]{1,0}, bf16[192,192]{1,0}, u32[]) custom-call(%g.1), \
custom_call_target="AsyncCollectiveStart"
}

%step (b: bf16[12,192]) -> bf16[192,192] {
  %b = bf16[12,192]{1,0} parameter(0)
  ROOT %g.2 = bf16[192,192]{1,0} all-gather(%b), channel_id=70, replica_groups=mesh['axis_0'=16,'axis_1'=1] \
{'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="6"}
}

ENTRY %main (p: bf16[12,192]) -> bf16[192,192] {
  %p = bf16[12,192]{1,0} parameter(0)
  %f.1 = (bf16[12,192]{1,0}, bf16[192,192]{1,0}, u32[]) fusion(%p), kind=kCustom, calls=%start
  %e = bf16[12,192]{1,0} get-tuple-element(%f.1), index=0
  ROOT %f.2 = bf16[192,192]{1,0} fusion(%e), kind=kCustom, calls=%step
}
"""


def test_a_tpus_collective_in_several_fusions_counts_once():
    (found,) = collectives(parse(TPU_STEPS), {"fsdp": 16})
    assert (found.name, found.bytes, found.channel_id, found.group_size) == ("g.1", 192 * 192 * 2, 70, 16)


def entry(*lines: str) -> str:
    return "\n".join(["HloModule t", "", "ENTRY %main () -> f32[] {", *lines, "}", ""])


def test_gpu_pairs_of_start_and_done_count_once_and_combined_tensors_are_added():
    text = entry(
        "  %a = bf16[24,4096]{1,0} parameter(0)",
        "  %b = f32[24,4096]{1,0} parameter(1)",
        "  %s = ((bf16[24,4096]{1,0}, f32[24,4096]{1,0}), (bf16[192,4096]{1,0}, f32[192,4096]{1,0})) "
        "all-gather-start(%a, %b), channel_id=27, replica_groups=mesh['a'=1,'b'=8] {'b'}, dimensions={0}",
        "  %d = (bf16[192,4096]{1,0}, f32[192,4096]{1,0}) all-gather-done(%s)",
        "  %r = ((f32[192,4096]{1,0}), f32[24,4096]{1,0}) reduce-scatter-start(%e), channel_id=3, "
        'replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add, metadata={op_name="jit(step)/transpose(jvp())/x"}',
        "  %e = f32[192,4096]{1,0} get-tuple-element(%d), index=1",
        "  %p = (f32[24,4096]{1,0}, f32[24,4096]{1,0}, u32[], u32[]) collective-permute-start(%b), channel_id=4, "
        "source_target_pairs={{0,4},{4,0}}",
    )
    gather, scatter, permute = collectives(parse(text), {"fsdp": 8})
    assert (gather.bytes, gather.dtype, gather.axes) == (192 * 4096 * 6, "bf16+f32", "fsdp")
    assert (scatter.bytes, scatter.phase) == (192 * 4096 * 4, "backward")
    assert (permute.bytes, permute.wire_bytes, permute.axes) == (24 * 4096 * 4, 24 * 4096 * 4, "fsdp")


def test_only_groups_that_span_hosts_use_the_network():
    text = entry(
        "  %a = f32[1024]{0} parameter(0)",
        "  %g = f32[16384]{0} all-gather(%a), channel_id=1, replica_groups=[1,16]<=[16], dimensions={0}",
        "  %h = f32[8192]{0} all-gather(%a), channel_id=2, replica_groups=[2,8]<=[16], dimensions={0}",
        "  %i = f32[2048]{0} all-gather(%a), channel_id=3, replica_groups=[8,2]<=[2,8]T(1,0), dimensions={0}",
    )
    both, within, across = collectives(parse(text), {"data": 2, "fsdp": 8})
    assert (both.axes, within.axes, across.axes) == ("data x fsdp", "fsdp", "data")
    # Half of the 64 KiB has to come into each host, through eight cards.
    assert (both.network_bytes(8), within.network_bytes(8)) == (65536 / 2 / 8, 0)
    assert across.network_bytes(8) == across.wire_bytes == 8192 / 2


def test_ring_factors():
    assert wire("all-gather", 100, 4) == 75
    assert wire("all-reduce", 100, 4) == 150
    assert wire("collective-permute", 100, 4) == 100


def test_phases_of_a_step():
    layer = "while/body/closed_call"
    assert phase(f"jit(step)/jvp()/{layer}/dot_general") == "forward"
    assert phase(f"jit(step)/transpose(jvp())/{layer}/checkpoint/dot_general") == "backward"
    assert phase(f"jit(step)/transpose(jvp())/{layer}/checkpoint/rematted_computation/dot_general") == "recompute"
    assert (phase("jit(step)/add"), phase("")) == ("update", "unknown")
