"""Which attention backend computes what is asked, and why not the others: decided once, and said once.

Nothing is taken on trust. A kernel of another library is chosen only after it has given the reference's output and
gradients for a small case of what is asked, on a device of this machine, if there is one of the kind compiled for.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import logging
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.config.errors import UserError
from maxllm.kernels.attention_blocks import blockwise
from maxllm.kernels.attention_cudnn import cudnn
from maxllm.kernels.attention_mapped import mapped
from maxllm.kernels.attention_mosaic import mosaic
from maxllm.kernels.attention_reference import reference
from maxllm.kernels.attention_splash import splash
from maxllm.kernels.masking import Masking, with_prefix
from maxllm.parallel import target

logger = logging.getLogger("maxllm.kernels.attention")

Function = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None, Masking], jax.Array]


class Asked(NamedTuple):
    """What decides. `kind`: JAX's name of the device, such as "NVIDIA H200"; `heads` per kv head is `group`."""

    platform: str
    kind: str
    length: int
    group: int
    head_dim: int
    dtype: str
    segments: bool
    masking: Masking


class Backend(NamedTuple):
    run: Function
    why: str
    refuses: Callable[[Asked], str | None] = lambda asked: None
    proved: bool = True  # False: another library's kernel, tried before it is used


def choose(backend: str, asked: Asked) -> Function:
    """The function for `backend`, or for "auto" the first in the platform's order that does not refuse.

    Raises UserError where a backend named by the user cannot do what is asked.
    """
    return BACKENDS[_chosen(backend, asked)].run


def asked(query: jax.Array, key: jax.Array, segment_ids: jax.Array | None, masking: Masking) -> Asked:
    _, length, heads, head_dim = query.shape
    return Asked(
        target.platform(),
        target.device_kind(),
        length,
        heads // key.shape[2],
        head_dim,
        str(query.dtype),
        segment_ids is not None,
        masking,
    )


@functools.cache
def _chosen(backend: str, asked: Asked) -> str:
    order = ORDER.get(asked.platform, ("blockwise",))
    if backend != "auto":
        if reason := _refusal(backend, asked):
            instead = next(name for name in (*order, "blockwise") if name != backend and not _refusal(name, asked))
            raise UserError(f"compute.attention={backend}: {reason}; use compute.attention={instead} (or auto)")
        return backend
    refusals = {}
    for name in order:
        if not (reason := _refusal(name, asked)):
            break
        refusals[name] = reason
    said = "".join(f"; {name} refused: {reason}" for name, reason in refusals.items())
    logger.info("attention: %s on %s at length %d (%s)%s", name, asked.kind, asked.length, BACKENDS[name].why, said)
    return name


@functools.cache
def _refusal(name: str, asked: Asked) -> str | None:
    backend = BACKENDS[name]
    if reason := backend.refuses(asked):
        return reason
    here = any(device.device_kind == asked.kind for device in jax.local_devices())
    if backend.proved or not here:
        return None
    # On a thread of its own: this may be asked while a program is being traced, and has to run now.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(disagreement, backend.run, asked).result()


def disagreement(run: Function, asked: Asked, length: int = 512, tolerance: float = 0.02) -> str | None:
    """What `run` gets wrong in a small case of what is asked, or None: output and gradients beside the reference's in
    float32, relative L2 (bfloat16 alone makes some 0.5 %)."""
    random = np.random.default_rng(0)
    shape = (2, length, 2 * asked.group, asked.head_dim)
    heads = (shape[2], 2, 2, shape[2])
    arrays = [jnp.asarray(random.normal(size=(2, length, n, shape[3])), asked.dtype) for n in heads]
    lengths = np.array([[3, 100, length - 160, 57], [length - 1, 1, 0, 0]])
    ids = jnp.asarray([np.repeat(np.arange(4), row) for row in lengths], jnp.int32) if asked.segments else None
    if asked.masking.prefix:
        ids = with_prefix(ids + 1, jnp.broadcast_to(jnp.arange(length) % 256 < 130, ids.shape))

    def values(run: Function, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        output, pull = jax.vjp(lambda *x: run(*x, ids, asked.masking), *arrays[:3])
        return output, *pull(arrays[3])

    try:
        got = jax.jit(functools.partial(values, run))(*arrays)
        want = jax.jit(functools.partial(values, reference))(*(x.astype(jnp.float32) for x in arrays))
        pairs = zip(("output", "d query", "d key", "d value"), got, want, strict=True)
        for name, a, b in pairs:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            difference = np.linalg.norm(a - b) / np.linalg.norm(b)
            if not difference <= tolerance:
                return f"its {name} is off by {difference:.1%} on this machine"
    except Exception as error:  # whatever another library may raise is a reason not to use it
        return f"it fails on this machine ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    return None


def _splash_refuses(asked: Asked) -> str | None:
    if asked.masking.prefix:
        return "it has no prefix that is seen both ways"
    return None if asked.platform == "tpu" else f"it is a kernel for TPUs, and this is {asked.kind}"


def _cudnn_refuses(asked: Asked) -> str | None:
    most = 256 if _is_hopper_or_later(asked.kind) else 128
    if asked.platform != "gpu":
        return f"it is a kernel for NVIDIA GPUs, and this is {asked.kind}"
    if asked.dtype not in ("bfloat16", "float16"):
        return f"it has no {asked.dtype}"
    if asked.masking.softcap is not None:
        return "it has no soft cap"
    if asked.masking.prefix:
        return "it has no prefix that is seen both ways"
    if asked.masking.window is not None and not asked.masking.causal:
        return "its windows are causal"
    if asked.head_dim % 8 or asked.head_dim > most:
        return f"head_dim {asked.head_dim} is not a multiple of 8 up to {most}"
    if asked.segments and not _is_hopper_or_later(asked.kind):
        return "it keeps packed documents apart from Hopper on"
    return None


def _mosaic_refuses(asked: Asked) -> str | None:
    if asked.platform != "gpu" or not _is_hopper(asked.kind):
        return f"it is a kernel for Hopper, and this is {asked.kind}"
    if importlib.util.find_spec("tokamax") is None:
        return "tokamax is not installed"
    if asked.dtype not in ("bfloat16", "float16"):
        return f"it would compute {asked.dtype} in bfloat16"
    if asked.head_dim not in (64, 128, 256):
        return f"head_dim {asked.head_dim} is none of 64, 128, 256"
    if asked.length % 128:
        return f"length {asked.length} is not a multiple of 128"
    return None


def _is_hopper(kind: str) -> bool:
    return re.search(r"\bG?H(20|100|200|800)\b", kind) is not None


def _is_hopper_or_later(kind: str) -> bool:
    return _is_hopper(kind) or re.search(r"\bG?B(100|200|300)\b", kind) is not None


def _mapped_refuses(asked: Asked) -> str | None:
    return None if asked.length <= 16384 else "a block of one head's scores leaves the caches"


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference, "as written: for tests"),
    "mapped": Backend(mapped, "one head at a time stays in a core's cache", _mapped_refuses),
    "blockwise": Backend(blockwise, "memory linear in length, on any device"),
    "cudnn": Backend(cudnn, "fused; packed documents by their offsets", _cudnn_refuses, proved=False),
    "mosaic": Backend(mosaic, "fused; a range of keys per query", _mosaic_refuses, proved=False),
    "splash": Backend(splash, "fused; hidden blocks are not fetched", _splash_refuses, proved=False),
}
# cuDNN before tokamax: measured by others on Hopper for years; tokamax for what cuDNN lacks.
ORDER = {"cpu": ("mapped", "blockwise"), "gpu": ("cudnn", "mosaic", "blockwise"), "tpu": ("splash", "blockwise")}
