"""FLOPs of matrix products in a compiled program, loops multiplied out: what the hardware is asked to do.

Over the model's FLOPs (`train/flops.py`) that is what rematerialisation, padding and masked-out work cost. Additions,
exponentials and the like are left out: matrix units do none of them.

What is counted, and from what:
- `dot`, `ragged-dot` and `convolution` (a TPU's form of a dot), in fusions too: compiled shapes;
- cuBLAS and cuDNN calls: a formula of compiled shapes; causal attention as half of the square;
- Mosaic kernels (`tpu_custom_call`): libtpu's ragged dots by formula; others by the caller's (`splash`), or unknown;
- any other custom call is unknown unless it is known to do no such work. Unknown ones are listed, never taken for 0.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from maxllm.plan.collectives import phase
from maxllm.plan.hlo import Computation, Instruction, Module, Shape
from maxllm.plan.loops import Executions, executions

# FLOPs of one execution of a custom call, or None where the formula does not know it.
Formula = Callable[[Computation, Instruction], float | None]

# Custom calls that multiply no matrices. On a TPU most hold memory or mark where a transfer begins and ends.
_NO_PRODUCTS = frozenset(
    """AllocateBuffer ConcatBitcast GatherScatterIndicesBitpacked AssumeGatherIndicesInBound AsyncCollectiveStart
    AsyncCollectiveDone CreateToken MoveToHost MoveToDevice PinToDevice Pin Unpin annotate_device_placement
    LayoutConstraint Sharding SPMDFullToShardShape SPMDShardToFullShape TopK PartialReduce ApproxTopK X64Combine
    X64SplitLow X64SplitHigh cu_threefry2x32_ffi __gpu$TopK xla_ffi_python_cpu_callback xla_python_cpu_callback
    cub_device_radix_sort InspectSharding SliceToDynamic PadToStatic GetSynchronizationFlag BarrierStart
    BarrierDone""".split()
)


@dataclass(frozen=True)
class Flops:
    """Of one run of a program, on one device."""

    total: float
    by_dtype: Mapping[str, float]  # of the operands: "bf16", "f8e4m3fn"
    by_phase: Mapping[str, float]  # forward, recompute, backward, update, unknown
    by_source: Mapping[str, float]  # dot, convolution, the name of a custom call's target
    by_formula: float  # the part of the total that custom calls make up: of it the text gives shapes only
    exact: bool  # False: at least so many; some loops' trip counts depend on the data
    unknown: Mapping[str, float]  # custom calls whose work is not known: target -> executions


def flops(module: Module, formula: Formula | None = None, runs: Mapping[str, Executions] | None = None) -> Flops:
    """`formula`: FLOPs of custom calls that only the caller knows (its own Pallas kernels)."""
    runs = executions(module) if runs is None else runs
    by_dtype, by_phase, by_source, unknown = (collections.defaultdict(float) for _ in range(4))
    exact, by_formula = True, 0.0
    for computation, instruction in module.instructions():
        run = runs.get(computation.name)
        if run is None:
            continue
        each = flops_of(computation, instruction, formula)
        if each is None:
            unknown[instruction.attributes.get("custom_call_target", instruction.opcode)] += run.count
        elif each:
            amount = each * run.count
            exact &= run.exact
            by_formula += amount if instruction.opcode == "custom-call" else 0.0
            by_dtype[_widest(computation, instruction)] += amount
            by_phase[phase(instruction.op_name)] += amount
            by_source[instruction.attributes.get("custom_call_target", instruction.opcode)] += amount
    total = sum(by_source.values())
    return Flops(total, dict(by_dtype), dict(by_phase), dict(by_source), by_formula, exact, dict(unknown))


def flops_of(computation: Computation, instruction: Instruction, formula: Formula | None = None) -> float | None:
    """Of one execution of one instruction; None where it is a custom call that is not known."""
    if instruction.opcode in ("dot", "ragged-dot"):
        return _dot(computation, instruction, instruction.numbers("lhs_contracting_dims"))
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if instruction.opcode == "custom-call":
        known = formula(computation, instruction) if formula else None
        return _custom_call(computation, instruction) if known is None else known
    return 0.0


def _shapes(computation: Computation, instruction: Instruction) -> list[Shape]:
    return [computation.instructions[name].shape for name in instruction.operands]


def _widest(computation: Computation, instruction: Instruction) -> str:
    """The wider of the two operands' types, which is the one they are multiplied in.

    A kernel may have integer operands before them: which blocks to skip.
    """
    arrays = [shape for shape in _shapes(computation, instruction) if shape.parts is None and len(shape.sizes) > 1]
    arrays = [shape for shape in arrays if "f" in shape.dtype] or arrays or [Shape("u8")]
    return max(arrays[:2], key=lambda shape: shape.bytes / max(shape.elements, 1)).dtype


def _dot(computation: Computation, instruction: Instruction, contracted: Iterable[int]) -> float:
    lhs = _shapes(computation, instruction)[0]
    result = instruction.shape.arrays[0]
    rows = 2.0 * result.elements * math.prod(lhs.sizes[dimension] for dimension in contracted)
    ragged = instruction.numbers("lhs_ragged_dims")
    if ragged and ragged[0] in contracted:  # the groups share the contracted dimension out among them
        rows /= result.sizes[0]
    return rows


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """2 · batch · features in · features out · pairs of positions that meet, per spatial dimension.

    A TPU writes a product over several dimensions as a convolution whose padding makes most pairs miss. Only pairs
    that meet are counted, as XLA's HloCostAnalysis does.
    """
    lhs, rhs = _shapes(computation, instruction)[:2]
    result = instruction.shape.arrays[0]
    labels_in, _, rest = instruction.attributes["dim_labels"].partition("_")
    labels_kernel, _, labels_out = rest.partition("->")
    window = dict(part.split("=") for part in instruction.attributes.get("window", "{}").strip("{}").split())
    meetings = 1.0
    for index in range(sum(label.isdigit() for label in labels_in)):
        at = str(index)
        meetings *= _meetings(
            lhs.sizes[labels_in.index(at)],
            rhs.sizes[labels_kernel.index(at)],
            result.sizes[labels_out.index(at)],
            stride=_entry(window, "stride", index, 1),
            pad=_entry(window, "pad", index, 0),
            spread=_entry(window, "lhs_dilate", index, 1),
            gap=_entry(window, "rhs_dilate", index, 1),
        )
    features = lhs.sizes[labels_in.index("f")] / int(instruction.attributes.get("feature_group_count", 1))
    batch = lhs.sizes[labels_in.index("b")] / int(instruction.attributes.get("batch_group_count", 1))
    return 2.0 * batch * features * result.sizes[labels_out.index("f")] * meetings


def _entry(window: Mapping[str, str], key: str, index: int, default: int) -> int:
    """One spatial dimension's number in `stride=2x2`; of `pad=5_5x0_1`, what is before."""
    return int(window[key].split("x")[index].split("_")[0]) if key in window else default


def _meetings(size: int, kernel: int, out: int, *, stride: int, pad: int, spread: int, gap: int) -> int:
    """Pairs (output position, kernel position) that fall on an element, not on padding or between spread elements."""
    # Output position o and kernel position k meet at o · stride + k · gap - pad, if that is on an element.
    offsets = np.arange(kernel) * gap - pad
    if spread == 1:
        first = np.maximum(0, (stride - 1 - offsets) // stride)
        last = np.minimum(out - 1, (size - 1 - offsets) // stride)
        return int(np.maximum(0, last - first + 1).sum())
    places = np.arange(out)[:, None] * stride + offsets
    return int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())


def _custom_call(computation: Computation, instruction: Instruction) -> float | None:
    target = instruction.attributes.get("custom_call_target", "")
    if target in _NO_PRODUCTS:
        return 0.0
    if target.startswith("__cublas$"):
        numbers = instruction.backend_config["gemm_backend_config"]["dot_dimension_numbers"]
        return _dot(computation, instruction, map(int, numbers["lhs_contracting_dimensions"]))
    if target.startswith("__cudnn$fmha"):
        return _fmha(computation, instruction)
    if target.startswith("__cudnn$conv") and "dim_labels" in instruction.attributes:
        return _cudnn_convolution(computation, instruction, target)
    if target == "tpu_custom_call" and "ragged-dot" in instruction.op_name:
        return _tpu_ragged_dot(computation, instruction)
    return None


def _fmha(computation: Computation, instruction: Instruction) -> float:
    """Two products of batch · heads · queries · keys · head_dim forward; five backward, one of them computed again
    (Dao 2023, FlashAttention-2, section 4.1). Half of them under a causal mask."""
    config = instruction.backend_config["cudnn_fmha_backend_config"]
    scores = math.prod(int(size) for size in config["intermediate_tensor_shape"]["dimensions"])
    query = _shapes(computation, instruction)[0]
    contracted = config.get("bmm1_dot_dimension_numbers", {}).get("lhs_contracting_dimensions", ["3"])
    head_dim = query.sizes[int(contracted[0])]
    products = 5 if "Backward" in instruction.attributes["custom_call_target"] else 2
    return 2.0 * products * scores * head_dim * (0.5 if "CAUSAL" in config.get("mask_type", "") else 1.0)


def splash(share: float = 0.5) -> Formula:
    """For JAX's splash attention on TPU. `share`: of the square of scores that is computed; a half is causal, and a
    sliding window is less. Which blocks a kernel skips is in its operands' values, not in the text.

    Products per kernel: 2 forward; 3 for the queries' gradient and 4 for the keys' and values', the scores once each
    again; 5 where one kernel does both (jax.experimental.pallas.ops.tpu.splash_attention).
    """

    def formula(computation: Computation, instruction: Instruction) -> float | None:
        name = instruction.name
        if instruction.attributes.get("custom_call_target") != "tpu_custom_call" or not name.startswith("splash_m"):
            return None
        fused = '\\"use_fused_bwd_kernel\\": true' in instruction.rest
        products = 2 if "_fwd" in name else 3 if "_dq" in name else (5 if fused else 4) if "_dkv" in name else None
        floats = [s for s in _shapes(computation, instruction) if s.dtype in ("bf16", "f32") and len(s.sizes) >= 3]
        if products is None or len(floats) < 2:
            return None
        query, key = floats[:2]  # [..., heads, length, head_dim]; keys with fewer heads
        return 2.0 * products * share * query.elements * key.sizes[-2]

    return formula


def _cudnn_convolution(computation: Computation, instruction: Instruction, target: str) -> float | None:
    """Forward ones only: a language model has no others, and theirs are written with other operands' labels."""
    return _convolution(computation, instruction) if "Forward" in target or "BiasActivation" in target else None


def _tpu_ragged_dot(computation: Computation, instruction: Instruction) -> float:
    """libtpu's kernel for `jax.lax.ragged_dot`: every row meets one group's matrix, whatever the groups' sizes.

    `[m, k] x [groups, k, n]`, or `[m, k] x [m, n]` summed within groups: 2 m k n both times.
    """
    matrices = [shape for shape in _shapes(computation, instruction) if shape.parts is None and len(shape.sizes) >= 2]
    if not matrices:  # the kernel that works out where groups begin
        return 0.0
    lhs, rhs = matrices[:2]
    return 2.0 * math.prod(lhs.sizes) * rhs.sizes[-1]
