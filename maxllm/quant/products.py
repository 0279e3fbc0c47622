"""Products of two matrices whose factors are quantized, forward and backward. Qwix quantizes and multiplies.

Each takes `x` `[tokens, inputs]` and `kernel` `[inputs, outputs]` of the compute dtype, and so is its result.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import qwix

from maxllm.quant import exponents

ROWS_BY_COLUMNS = (((1,), (0,)), ((), ()))  # x · kernel
BY_TRANSPOSE = (((1,), (1,)), ((), ()))  # gradient · kernelᵀ
TRANSPOSE_BY = (((0,), (0,)), ((), ()))  # xᵀ · gradient

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2  # precision where it is needed, range where it is


# int8 ---------------------------------------------------------------------------------------------


@jax.custom_vjp
def int8(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """SwitchBack (Wortsman et al. 2023): output and gradient of `x` in int8, the kernel's gradient in x's dtype.

    A scale per token and per output, from what is multiplied just now. The kernel's gradient adds up over all tokens,
    where the noise of 8 bits hurts most, and over so many of them that 32 bits would not hold the sum.
    """
    return _int8_forward(x, kernel)[0]


def _int8_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    rows, columns = _quantize(x, jnp.int8, (0,)), _quantize(kernel, jnp.int8, (1,))
    return qwix.dot_general(rows, columns, ROWS_BY_COLUMNS, preferred_element_type=x.dtype), (x, kernel)


def _int8_backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    columns = _quantize(kernel, jnp.int8, (1,))
    # The kernel's scales belong to what is summed over here: they go to the other factor before it is quantized.
    rows = _quantize(gradient * columns.scale, jnp.int8, (0,))
    of_x = qwix.dot_general(rows, columns.qvalue, BY_TRANSPOSE, preferred_element_type=x.dtype)
    return of_x, jax.lax.dot_general(x, gradient, TRANSPOSE_BY)


int8.defvjp(_int8_forward, _int8_backward)


# fp8 ----------------------------------------------------------------------------------------------


@jax.custom_vjp
def fp8(x: jax.Array, kernel: jax.Array, seen: jax.Array | None = None) -> jax.Array:
    """Products in fp8, a scale per tensor: `x` and kernel in e4m3, gradients in e5m2 (Micikevicius et al. 2022).

    Without `seen` a tensor's scale comes from its own largest magnitude (current scaling), which has to be found before
    it can be rounded. With `seen`, the exponents of past steps (delayed scaling, see `exponents`), float32
    `[3, 256]` for x, kernel and gradient, it is known beforehand; what is larger than expected saturates.

    The "gradient" of `seen` is no derivative: it counts the exponents met here, and sums as gradients do.
    """
    return _fp8_forward(x, kernel, seen)[0]


def _fp8_forward(x: jax.Array, kernel: jax.Array, seen: jax.Array | None):
    narrow = _to_fp8(x, FORWARD, seen, 0)
    product = qwix.dot_general(
        narrow, _to_fp8(kernel, FORWARD, seen, 1), ROWS_BY_COLUMNS, preferred_element_type=x.dtype
    )
    met = None if seen is None else jnp.stack([exponents.met(x), exponents.met(kernel)])
    return product, (narrow, kernel, seen, met)


def _fp8_backward(residuals, gradient: jax.Array):
    x, kernel, seen, met = residuals
    narrow = _to_fp8(gradient, BACKWARD, seen, 2)
    of_x = qwix.dot_general(
        narrow, _to_fp8(kernel, FORWARD, seen, 1), BY_TRANSPOSE, preferred_element_type=gradient.dtype
    )
    of_kernel = qwix.dot_general(x, narrow, TRANSPOSE_BY, preferred_element_type=gradient.dtype)
    return of_x, of_kernel, None if seen is None else jnp.concatenate([met, exponents.met(gradient)[None]])


fp8.defvjp(_fp8_forward, _fp8_backward)


def _to_fp8(x: jax.Array, dtype: jnp.dtype, seen: jax.Array | None, row: int) -> qwix.QArray:
    if seen is None:
        return _quantize(x, dtype)
    scale, inverse = exponents.scale(seen[row], dtype)
    limit = float(jnp.finfo(dtype).max)
    values = jnp.clip(x.astype(jnp.float32) * scale, -limit, limit).astype(dtype)
    return qwix.QArray(values, inverse.reshape(1, 1))


def _quantize(x: jax.Array, dtype: jnp.dtype, scale_axes: tuple[int, ...] = ()) -> qwix.QArray:
    """Scaled by the largest magnitude, in float32: of the whole tensor, or of each index along `scale_axes`."""
    method = "absmax"
    if dtype == jnp.int8:
        # Qwix would scale the largest to 127.5, halfway between two integers: the last bit of the scale, which may
        # differ from mesh to mesh, would decide the rounding of the very element that matters most. To 127, then.
        method = f"absmax,{127.5 / 127}"
    return qwix.quantize(x.astype(jnp.float32), dtype, channelwise_axes=scale_axes, calibration_method=method)
