"""FLOPs and memory traffic read from compiled programs, against XLA's own count and against arithmetic on paper."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.models import abstract
from maxllm.objectives import causal_lm
from maxllm.plan.flops import _meetings, flops, splash
from maxllm.plan.hlo import parse
from maxllm.plan.traffic import memory_bytes
from maxllm.train.flops import flops_per_token
from maxllm.train.step import accumulated_gradients


def compiled(function, *shapes, dtype=jnp.float32):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).compile()


def text_of(*lines: str) -> str:
    return "\n".join(["HloModule t", "", "ENTRY %main () -> f32[] {", *lines, "}", ""])


@pytest.mark.parametrize(
    ("function", "shapes", "by_hand"),
    [
        (lambda a, b: a @ b, ((64, 32), (32, 128)), 2 * 64 * 32 * 128),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), ((4, 64, 32), (4, 32, 16)), 2 * 4 * 64 * 32 * 16),
        (lambda a, b: jnp.einsum("bhd,hdk->bk", a, b), ((64, 4, 32), (4, 32, 16)), 2 * 64 * 4 * 32 * 16),
    ],
    ids=["matmul", "batched", "two contracted"],
)
def test_products_agree_with_xlas_count(function, shapes, by_hand):
    program = compiled(function, *shapes)
    assert flops(parse(program.as_text())).total == by_hand == program.cost_analysis()["flops"]


def test_padding_of_a_convolution_is_not_counted():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    program = compiled(convolve, (2, 16, 16, 4), (3, 3, 4, 8))
    assert flops(parse(program.as_text())).total == program.cost_analysis()["flops"]


@pytest.mark.parametrize("seed", range(20))
def test_positions_that_meet_are_those_that_a_slow_loop_finds(seed):
    generator = np.random.default_rng(seed)
    size, kernel, out = generator.integers(1, 9, 3)
    stride, gap, spread = generator.integers(1, 4, 3)
    pad = int(generator.integers(-2, 6))
    slow = 0
    for o in range(out):
        for k in range(kernel):
            at = o * stride + k * gap - pad
            slow += 0 <= at <= (size - 1) * spread and at % spread == 0
    assert _meetings(size, kernel, out, stride=stride, pad=pad, spread=spread, gap=gap) == slow


def test_a_tpus_product_over_two_dimensions_is_what_it_was():
    text = text_of(
        "  %a = bf16[256,192,1]{1,0,2:T(8,128)(2,1)} parameter(0)",
        "  %b = bf16[6,32,192]{1,0,2:T(8,128)(2,1)} parameter(1)",
        "  %c = bf16[256,6,32]{0,2,1:T(8,128)(2,1)} convolution(%a, %b), window={size=6 pad=5_5 rhs_reversal=1}, "
        "dim_labels=bf0_0oi->b0f",
        "  %d = bf16[8,512,1024]{2,1,0} parameter(2)",
        "  %e = bf16[8,1024,2048]{2,1,0} parameter(3)",
        "  ROOT %f = bf16[8,512,2048]{2,1,0} convolution(%d, %e), window={size=8 stride=7 lhs_dilate=8}, "
        "dim_labels=0bf_0io->0bf",
    )
    assert flops(parse(text)).total == 2 * 256 * 192 * 6 * 32 + 2 * 8 * 512 * 1024 * 2048


CUDNN = (
    "%{name} = (bf16[4,16,1024,128]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), "
    'custom_call_target="__cudnn$fmhaSoftmax{kind}", backend_config={{"cudnn_fmha_backend_config": '
    '{{"intermediate_tensor_shape": {{"dimensions": ["4", "16", "1024", "1024"]}}, "mask_type": "{mask}", '
    '"bmm1_dot_dimension_numbers": {{"lhs_contracting_dimensions": ["3"]}}}}}}'
)


def test_custom_calls_are_counted_by_formula_or_listed_as_unknown():
    square = 4 * 16 * 1024 * 1024 * 128
    text = text_of(
        "  %q = bf16[4,1024,16,128]{3,2,1,0} parameter(0)",
        "  %k = bf16[4,1024,4,128]{3,2,1,0} parameter(1)",
        "  " + CUDNN.format(name="forward", kind="", mask="NO_MASK"),
        "  " + CUDNN.format(name="backward", kind="Backward", mask="CAUSAL"),
        "  %a = f8e4m3fn[512,1024]{1,0} parameter(2)",
        "  %b = f8e4m3fn[1024,2048]{1,0} parameter(3)",
        '  %g = (bf16[512,2048]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul$f8", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
        '  %m = bf16[512,2048]{1,0} custom-call(%a), custom_call_target="tpu_custom_call"',
        '  %n = bf16[512,2048]{1,0} custom-call(), custom_call_target="AllocateBuffer"',
    )
    found = flops(parse(text))
    assert found.by_source == {
        "__cudnn$fmhaSoftmax": 4 * square,
        "__cudnn$fmhaSoftmaxBackward": 10 * square / 2,
        "__cublas$lt$matmul$f8": 2 * 512 * 1024 * 2048,
    }
    assert found.by_dtype["f8e4m3fn"] == 2 * 512 * 1024 * 2048
    assert found.unknown == {"tpu_custom_call": 1} and found.by_formula == found.total
    known = flops(parse(text), lambda computation, call: 7.0 if call.name == "m" else None)
    assert (known.by_source["tpu_custom_call"], known.unknown) == (7.0, {})


def test_splash_attention_by_its_formula():
    def kernel(name):
        return (
            f"  %{name} = bf16[8,512,128]{{2,1,0}} custom-call(%mask, %q, %k, %k), "
            'custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/jvp()/splash"}'
        )

    names = ("splash_mha_fwd_residuals.1", "splash_mha_dq_no_residuals.1", "splash_mha_dkv_no_residuals.2")
    text = text_of(
        "  %mask = s8[1,1,1]{2,1,0} parameter(0)",
        "  %q = bf16[8,512,128]{2,1,0} parameter(1)",
        "  %k = bf16[2,512,128]{2,1,0} parameter(2)",
        *map(kernel, names),
    )
    assert flops(parse(text)).unknown == {"tpu_custom_call": 3}
    found = flops(parse(text), splash())
    assert found.total == (2 + 3 + 4) * 2 * 8 * 512 * 512 * 128 / 2
    assert found.by_dtype == {"bf16": found.total}


SHAPE = ModelConfig(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_layers=3, num_heads=4, num_kv_heads=2, max_positions=32
)


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_a_models_gradient_costs_what_paper_says(remat):
    rows, length = 2, 32
    compute = ComputeConfig(dtype="float32", remat=remat, attention="reference")
    structure, parameters = abstract(SHAPE, compute)
    integers = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    batch = Batch(integers, integers, integers, integers, jax.ShapeDtypeStruct((rows, length), jnp.float32))
    program = jax.jit(lambda p, b: accumulated_gradients(structure, causal_lm, p, b, 1)).lower(parameters, batch)
    found = flops(parse(program.compile().as_text()))
    tokens = rows * length
    matrices = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 96
    scores = 2 * length * 64  # the reference computes the whole square, twice: scores, and their product with values
    forward = 2 * tokens * (SHAPE.num_layers * (matrices + scores) + 64 * 128)
    # No gradient needs the last product of a layer, so the compiler drops it from what is computed again.
    again = 2 * tokens * SHAPE.num_layers * (matrices + scores - 64 * 96)
    assert found.total == 3 * forward + (again if remat == "full" else 0)
    assert found.by_phase.get("recompute", 0) == (again if remat == "full" else 0)
    assert found.exact and not found.unknown
    # The model's FLOPs count half of the square, nothing twice, and the norms' weights, which multiply no matrix.
    ratio = found.total / (flops_per_token(SHAPE, length) * tokens)
    assert (1.0 < ratio < 1.1) if remat == "none" else (1.25 < ratio < 1.4)


def test_memory_traffic_agrees_with_xlas_count_where_nothing_loops():
    program = compiled(lambda a, b: jnp.tanh(a @ b), (256, 128), (128, 512))
    seen, exact = memory_bytes(parse(program.as_text()))
    assert exact and seen == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.01)


def test_slices_and_updates_in_place_move_only_their_part():
    def write(whole, part, at):
        return jax.lax.dynamic_update_slice(whole, part, (at, 0))

    shapes = (jax.ShapeDtypeStruct((1024, 64), jnp.float32), jax.ShapeDtypeStruct((1, 64), jnp.float32))
    at = jax.ShapeDtypeStruct((), jnp.int32)
    text = jax.jit(write, donate_argnums=0).lower(*shapes, at).compile().as_text()
    assert memory_bytes(parse(text))[0] < 1024 * 64 * 4 / 10


def test_on_chip_memory_is_no_traffic():
    text = text_of(
        "  %a = bf16[512,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)",
        "  ROOT %b = bf16[512,1024]{1,0:T(8,128)(2,1)} copy(%a)",
    )
    assert memory_bytes(parse(text)) == (512 * 1024 * 2, True)
