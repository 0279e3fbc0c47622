"""What a program is compiled for: the devices of the mesh in scope, which need not be on this machine."""

from __future__ import annotations

import jax


def platform() -> str:
    """ "cpu", "gpu" or "tpu". Inside `jax.set_mesh` the mesh's, elsewhere that of JAX's default devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def device_kind() -> str:
    """JAX's name of the kind, such as "TPU v5 lite" or "NVIDIA H200"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind
