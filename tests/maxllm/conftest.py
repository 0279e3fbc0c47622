"""Another project's program to compare with, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a throw-away environment with PyTorch, transformers and lm-eval's own Hugging Face model.

    MAXLLM_TORCH_PYTHON names one that has them already: installing takes minutes.
    """
    if ready := os.environ.get("MAXLLM_TORCH_PYTHON"):
        return Path(ready)
    folder = tmp_path_factory.mktemp("peer") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "torch", "transformers", "sentencepiece", "lm-eval[hf]"]
    if subprocess.run(command, check=False, timeout=1200).returncode:
        pytest.skip("PyTorch and transformers cannot be installed here: nothing was compared with them")
    return python
