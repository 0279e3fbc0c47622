"""The reader of optimized HLO, on lines that TPU, GPU and CPU compilers wrote."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from maxllm.plan.hlo import parse, parse_shape
from maxllm.plan.loops import executions, loops


def module(*lines: str) -> str:
    """An entry computation of `lines`, each an instruction of a real text."""
    return "\n".join(["HloModule test, is_scheduled=true", "", "ENTRY %main () -> f32[] {", *lines, "}", ""])


@pytest.mark.parametrize(
    ("text", "bytes", "padded"),
    [
        ("f32[]", 4, 4),
        ("pred[3,5]{1,0}", 15, 15),
        ("bf16[4,2,256]{2,1,0}", 4096, 4096),
        ("f8e4m3fn[16,64,256]{2,1,0}", 262_144, 262_144),
        ("s4[256,512]{1,0:E(4)}", 65_536, 65_536),
        ("u32[]{:S(2)}", 4, 4),
        ("f32[]{:T(128)}", 4, 512),
        ("bf16[3,100]{1,0:T(8,128)(2,1)}", 600, 8 * 128 * 2),
        ("bf16[3,100]{0,1:T(8,128)(2,1)}", 600, 104 * 128 * 2),  # the first dimension is the most minor
        ("f32[2,300]{1,0:T(1,128)S(1)}", 2400, 2 * 384 * 4),
        ("(bf16[1,2]{1,0}, /*index=5*/(f32[2]{0}, s32[]), token[])", 4 + 8 + 4, 4 + 8 + 4),
        ("f32[<=10]{0}", 40, 40),
    ],
)
def test_a_shape_takes_its_bytes(text, bytes, padded):
    assert (parse_shape(text).bytes, parse_shape(text).padded_bytes) == (bytes, padded)


def test_memory_space_and_layout_are_read():
    shape = parse_shape("bf16[6,32,192]{1,0,2:T(8,128)(2,1)S(1)}")
    assert (shape.minor_to_major, shape.tile, shape.memory_space) == ((1, 0, 2), (8, 128), 1)
    assert parse_shape("f32[8]{0:T(256)}").memory_space == 0


@pytest.mark.parametrize("text", ["", "f32", "%a", "blah blah", "f99[2]"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ValueError):
        parse_shape(text).bytes  # noqa: B018


def test_a_gpu_line_is_read():
    line = (
        "  %all-gather-start.2 = ((bf16[24,4096]{1,0}, f32[24,4096]{1,0}), (bf16[192,4096]{1,0}, f32[192,4096]{1,0})) "
        "all-gather-start(%input_transpose_fusion.1, /*index=5*/%param.102), channel_id=27, "
        "replica_groups=mesh['axis_0'=1,'axis_1'=8] {'axis_1'}, dimensions={0}, use_global_device_ids=true, "
        'metadata={op_name="jit(step)/jvp()/(convert, \\"x\\")" stack_frame_id=178}, '
        'backend_config={"operation_queue_id":"0","collective_backend_config":{"is_sync":false}}'
    )
    found = parse(module(line)).entry.instructions["all-gather-start.2"]
    assert found.opcode == "all-gather-start"
    assert found.operands == ("input_transpose_fusion.1", "param.102")
    assert found.shape.parts[1].bytes == 192 * 4096 * 6
    assert found.attributes["replica_groups"] == "mesh['axis_0'=1,'axis_1'=8] {'axis_1'}"
    assert found.numbers("dimensions") == (0,)
    assert found.op_name == 'jit(step)/jvp()/(convert, \\"x\\")'
    assert found.backend_config["collective_backend_config"] == {"is_sync": False}


def test_a_tpu_fusion_is_read():
    line = (
        "  ROOT %fusion.511 = pred[6,128,128]{1,2,0:T(8,128)(4,1)S(1)} fusion(%param_0.1477), kind=kLoop, "
        "output_to_operand_aliasing={{}: (0, {})}, calls=%copy_fusion"
    )
    found = parse(module(line)).entry.root
    assert (found.name, found.called, found.attributes["kind"]) == ("fusion.511", ("copy_fusion",), "kLoop")


def test_a_kernels_attributes_may_have_line_breaks():
    lines = (
        '  %k = f32[2]{0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={metadata={',
        '"xprof_metadata":"{\\"block_q\\": 256}"',
        '}}, metadata={op_name="splash"}',
        "  %b = f32[2]{0} copy(%k)",
    )
    entry = parse(module(*lines)).entry
    assert list(entry.instructions) == ["k", "b"]
    assert entry.instructions["k"].op_name == "splash"


def test_a_dialect_with_operand_shapes_is_read():
    found = parse(module("  %d = f32[2,4]{1,0} dot(f32[2,3]{1,0} %a, f32[3,4]{1,0} %b), lhs_contracting_dims={1}"))
    assert found.entry.root.operands == ("a", "b")


def test_what_is_no_hlo_is_refused_with_its_line():
    with pytest.raises(ValueError, match="begins with 'hello'"):
        parse("hello")
    with pytest.raises(ValueError, match="line 4 of the HLO text"):
        parse(module("  %a = f32[2]{0} copy(%b"))


def nested(xs):
    def inner(x, y):
        return x + jnp.tanh(x @ y), None

    def outer(x, ys):
        return jax.lax.scan(inner, x, ys)[0], None

    return jax.lax.scan(outer, jnp.ones((8, 8)), xs)[0]


def test_nested_loops_have_their_trip_counts_on_this_machine():
    text = jax.jit(nested).lower(jnp.ones((5, 3, 8, 8))).compile().as_text()
    found = parse(text)
    assert sorted((loop.depth, loop.trips) for loop in loops(found)) == [(0, 5), (1, 3)]
    runs = executions(found)
    dots = [runs[c.name].count for c, i in found.instructions() if i.opcode == "dot" or "dot" in i.name]
    assert 15 in dots and all(run.exact for run in runs.values())


def test_a_loop_whose_end_depends_on_data_is_unknown_and_counted_once():
    text = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: jnp.sin(x) * 2, 1.0)).lower(3).compile().as_text()
    found = parse(text)
    (loop,) = loops(found)
    assert loop.trips is None
    run = executions(found)[loop.body]
    assert (run.count, run.exact) == (1, False)


TPU_LOOP = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {
  %p = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} get-tuple-element(%p), index=2
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %step = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %step)
  %y = f32[8]{0} sine(%x)
  ROOT %t = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) tuple(%next, %y, %n)
}

%condition (p.1: (s32[], f32[8], s32[])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=2
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n.1), direction=LT
}

ENTRY %main (x.1: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %first = s32[]{:T(128)} constant(1)
  %last = s32[]{:T(128)} constant(10)
  %copied = s32[]{:T(128)} copy(%first)
  %in = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) tuple(%copied, %x.1, %last)
  %while.1 = (s32[]{:T(128)}, f32[8]{0}, s32[]{:T(128)}) while(%in), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%while.1), index=1
}
"""


def test_a_tpus_trip_count_is_worked_out_from_first_last_and_step():
    assert [loop.trips for loop in loops(parse(TPU_LOOP))] == [5]  # 1, 3, 5, 7, 9


def test_a_count_that_the_compiler_noted_wins():
    noted = TPU_LOOP.replace("body=%body\n", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}\n')
    assert [loop.trips for loop in loops(parse(noted))] == [7]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("direction=LT", "direction=NE"),
        ("tuple(%next, %y, %n)", "tuple(%next, %y, %next)"),
        ("add(%i, ", "multiply(%i, "),
    ],
)
def test_a_loop_of_another_form_is_unknown(before, after):
    assert [loop.trips for loop in loops(parse(TPU_LOOP.replace(before, after)))] == [None]
