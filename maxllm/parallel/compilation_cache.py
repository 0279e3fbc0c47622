"""What XLA compiled once is kept: a second start of the same program takes seconds instead of minutes."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax


def enable() -> Path | None:
    """Keep compiled programs in the user's cache folder. JAX_COMPILATION_CACHE_DIR names another, or none if empty.

    Returns the folder, None if it is off.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) if chosen else None
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "maxllm" / "xla" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _processor() -> str:
    """Programs for the CPU use its own instructions; a home shared by unlike machines must not mix them."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
