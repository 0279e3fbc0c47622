"""The devices of a machine that is not here, from the compilers' own descriptions of it.

    environment(machine)         # before JAX is imported
    devices(machine)             # what a mesh is made of, and jax.jit(...).lower(...).compile() compiles for

Nothing here asks for, or touches, an accelerator: JAX itself runs on the CPU.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from maxllm.config.devices import facts
from maxllm.config.errors import UserError
from maxllm.plan.types import Machine

# libtpu would otherwise ask Google Cloud's metadata server, for minutes, what machine it is on, and refuse to be loaded
# while another process has it.
_TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# Four chips to a host, unless a slice is smaller; a v5e-8 or v6e-8 can be had as one host, too, and costs the same.
_ONE_CHIP = {"chips_per_host_bounds": (1, 1, 1)}
# A v4 chip's two cores appear as one device, as they do where there is a chip.
_MEGACORE = {"chip_config_name": "megacore"}


def environment(machine: Machine) -> None:
    """What has to be set before JAX is imported. Raises UserError if the compiler is not installed.

    JAX is told to run on the CPU even where there is a TPU or GPU: a plan should not take it from a run, and the GPU's
    compiler works without one only if JAX does not look for it.
    """
    # Compilers' remarks on how they lay things out, a hundred lines of each; errors are still said.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
        if machine.platform == "cpu":
            flag = f"--xla_force_host_platform_device_count={machine.devices}"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if machine.platform == "tpu":
        for name, value in _TPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if not _libtpu():
            raise UserError(
                f"--on {machine.name}: compiling for TPU needs libtpu, which is not installed (and needs no TPU); "
                "pip install 'maxllm[plan]', or name a libtpu.so in TPU_LIBRARY_PATH"
            )
    if machine.platform == "gpu" and not _importable("jax_plugins.xla_cuda13"):
        raise UserError(
            f"--on {machine.name}: compiling for NVIDIA GPUs needs JAX's CUDA plugin and NVIDIA's compiler, which are "
            "not installed (and need no GPU, 242 MiB); pip install 'maxllm[plan-gpu]'"
        )


def _libtpu() -> bool:
    """Whether JAX will find libtpu: named, installed, or in the folder where a checkout's `make install` puts it."""
    beside = Path(sys.prefix) / "compilers" / "libtpu" / "libtpu.so"
    if "TPU_LIBRARY_PATH" not in os.environ and not _importable("libtpu") and beside.exists():
        os.environ["TPU_LIBRARY_PATH"] = str(beside)
    return Path(os.environ["TPU_LIBRARY_PATH"]).exists() if "TPU_LIBRARY_PATH" in os.environ else _importable("libtpu")


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def devices(machine: Machine) -> Sequence[Any]:
    """`machine.devices` JAX devices that programs can be compiled for. Raises UserError if the compiler cannot."""
    import jax
    from jax.experimental import topologies

    if machine.platform == "cpu":
        if len(jax.devices("cpu")) < machine.devices:
            raise UserError(
                f"--on {machine.name}: JAX was started with {len(jax.devices('cpu'))} CPU devices; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={machine.devices}"
            )
        return jax.devices("cpu")[: machine.devices]
    try:
        if machine.platform == "tpu":
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=machine.topology, **_tpu_options(machine)
            ).devices
        else:
            _without_a_gpu()
            target = resources.files("maxllm.plan") / "gpu_targets" / f"{facts(machine.kind).target}.txtpb"
            found = topologies.get_topology_desc(
                platform="cuda", topology=machine.topology, target_config=target.read_text()
            ).devices
    except Exception as error:  # the plugins raise what they like: JaxRuntimeError, NotImplementedError, RuntimeError
        raise UserError(
            f"--on {machine.name}: the compiler does not know {machine.topology} ({str(error).splitlines()[0][:200]})"
        ) from error
    assert len(found) == machine.devices and found[0].device_kind == machine.kind, (found[0], len(found))
    return found


def _tpu_options(machine: Machine) -> dict[str, Any]:
    options: dict[str, Any] = {"wrap": _closed(machine.topology)}
    if machine.devices_per_host == 1:
        options |= _ONE_CHIP | {"chip_config_name": "default"}
    if machine.kind == "TPU v4":
        options |= _MEGACORE
    if machine.hosts > 1:
        options |= {"num_slices": machine.hosts}
    return options


def _closed(topology: str) -> tuple[bool, bool, bool]:
    """Along which sides a slice's links close into a ring, which libtpu has to be told: it plans other collectives.

    Slices in three dimensions are made of cubes of 4x4x4 whose faces optical switches join: closed along all sides, if
    they are multiples of 4. A pod of v5e or v6e is closed at its 16 chips a side (cloud.google.com/tpu/docs/v4, v5e).
    """
    sides = [int(side) for side in topology.split(":")[-1].split("x")]
    if len(sides) == 3:
        closed = all(side % 4 == 0 for side in sides)
        return (closed, closed, closed)
    return (sides[0] == 16, sides[1] == 16, False)


def _without_a_gpu() -> None:
    """JAX asks the GPU at hand, and the cuDNN installed, what fused attention can do; a plan has neither.

    Both questions have known answers: the capability of the devices compiled for, and the version in `gpu_targets`.
    """
    import jax
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    from maxllm.parallel.target import device_kind

    if not _importable("nvidia.cudnn"):
        cudnn.check_cudnn_version = lambda: 91000
    if jax.default_backend() == "cpu":
        cudnn.check_compute_capability = lambda wanted: float(wanted) <= (8.0 if "A100" in device_kind() else 9.0)
