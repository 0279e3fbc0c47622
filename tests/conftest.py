"""What every test stands on: eight simulated CPU devices, one compilation cache, where the shared data is."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Before anything imports jax.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Collectives that do not wait for one another each keep a thread of the CPU runtime.
os.environ.setdefault("PJRT_NPROC", "32")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "maxllm-test-compilation-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# The TPU's compiler, which needs no TPU (see the Makefile); `maxllm plan` finds it by the same name.
os.environ.setdefault("TPU_LIBRARY_PATH", str(Path(sys.prefix) / "compilers" / "libtpu" / "libtpu.so"))

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data with gold labels that lives beside the checkout, never in it."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared data folder is absent: this check on real data did not run")
    return path
