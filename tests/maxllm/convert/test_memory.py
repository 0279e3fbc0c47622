"""How much of a model the host holds while a folder is read and written: measured in a process of its own.

On a CPU the devices' memory is the host's, so that the bound there is: the model once, and beside it a block and a few
copies of the largest tensor (docs/models/conversion.md).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maxllm.config.model import ModelConfig
from maxllm.convert import families, hf
from maxllm.convert.safetensors_io import Entry, write_folder
from maxllm.convert.tensors import TensorMap
from maxllm.models import abstract

CHILD = """
import json, os, sys
from pathlib import Path
import jax
from maxllm.config.model import ModelConfig
from maxllm.convert import hf, streaming, weights

def peak(reset=False):
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held now
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

folder, out, warm, block = sys.argv[1:]
streaming.BLOCK = int(block)
weights.save(hf.load_decoder(warm, mesh=hf.widest_mesh(hf.load_config(warm))), Path(out), "float32", 10**9)
mesh = hf.widest_mesh(hf.load_config(folder))
before = peak(reset=True)
model = hf.load_decoder(folder, mesh=mesh)
jax.block_until_ready(jax.tree.leaves(model))
loaded = peak()
held = peak(reset=True)
weights.save(model, Path(out), "bfloat16", 10**8)
print(json.dumps(dict(devices=mesh.size, load=loaded - before, save=peak() - held)))
"""


def synthetic(folder: Path, config: ModelConfig) -> tuple[int, int]:
    """A folder of `config` in bfloat16, written a tensor at a time. Returns (bytes in float32, largest tensor's)."""
    from flax import nnx

    folder.mkdir()
    shapes = {".".join(path): leaf.shape for path, leaf in nnx.to_flat_state(abstract(config)[1])}
    mapping = TensorMap(families.by_name(config.family).tensors(config), shapes)
    random = np.random.default_rng(0)
    half = np.dtype("bfloat16")

    def entry(name: str) -> Entry:
        shape = mapping.shape(name)
        return Entry(name, shape, half, lambda: random.standard_normal(shape, np.float32).astype(half))

    write_folder(folder, [entry(name) for name in mapping.tensors], max_shard_bytes=100_000_000)
    (folder / "config.json").write_text(json.dumps(hf.settings_of(config)))
    sizes = [4 * int(np.prod(mapping.shape(name))) for name in mapping.tensors]
    return sum(sizes), max(sizes)


def measured(tmp_path: Path, config: ModelConfig, devices: int) -> tuple[dict[str, int], int, int]:
    total, largest = synthetic(tmp_path / "model", config)
    synthetic(tmp_path / "warm", config.model_copy(update=dict(hidden_size=64, intermediate_size=64, vocab_size=64)))
    (tmp_path / "out").mkdir()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "MALLOC_MMAP_THRESHOLD_": "100000",  # what is freed goes back at once, so that what is held is measured
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    arguments = [str(tmp_path / name) for name in ("model", "out", "warm")]
    command = [sys.executable, "-c", CHILD, *arguments, str(largest // 8)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), total, largest


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures with Linux's /proc")
@pytest.mark.parametrize("layers", [pytest.param(3, id="60MB"), pytest.param(24, id="400MB", marks=[pytest.mark.slow])])
def test_the_host_holds_a_tensor_at_a_time(layers: int, tmp_path: Path):
    config = ModelConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=2048, num_layers=layers, num_heads=8, num_kv_heads=4
    )
    found, total, largest = measured(tmp_path, config, devices=4)
    assert found["devices"] == 4
    slack = 20_000_000  # programs compiled, allocators' remainders
    assert found["load"] < total + 2 * largest + slack
    assert found["save"] < 2 * largest + slack
