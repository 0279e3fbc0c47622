"""`maxllm plan`, as a user runs it: in a process of its own, where JAX has not been set up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.maxllm.plan.conftest import TINY


def plan(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    keep = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-m", "maxllm.cli.main", "plan", *words],
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_a_plan_of_training_is_a_table_and_plain_values(tmp_path: Path) -> None:
    told = tmp_path / "plan.json"
    done = plan("train/demo", "--on", "cpux2", "--tokens", "1B", "--json", str(told), *TINY)
    assert done.returncode == 0, done.stderr
    assert "compiling for cpux2 (fsdp=2)" in done.stderr  # progress is not the result
    for words in ("parameters", "optimizer", "temporaries", "all-gather", "FLOPs"):
        assert words in done.stdout
    found = json.loads(told.read_text())
    assert found["mesh"]["fsdp"] == 2 and found["fits"] is None
    sources = {part["name"]: part["source"] for part in found["memory"]["parts"]}
    assert sources["parameters"] == "layout" and sources["temporaries"] == "compiled"
    assert sources["saved activations"] == "formula"
    assert found["flops"]["total"] > 0 and found["collectives"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["train/demo", "--on", "v5e-100"], "counts chips"),
        (["train/demo", "--on", "cpux2", "mesh.fsdp=3"], "does not cover the 2 devices"),
        (["train/demo", "--on", "cpux4", "mesh.tensor=4"], "model.num_heads 6 is not divisible"),
        (["train/demo", "--on", "cpux2", "model.numlayers=3"], "did you mean"),
        (["serve/default", "--on", "cpux4"], "--model"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(words: list[str], said: str) -> None:
    done = plan(*words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    done = plan("train/demo", "--on", "v5e-4", TPU_LIBRARY_PATH=str(tmp_path / "no.so"))
    assert done.returncode == 2 and "pip install 'maxllm[plan]'" in done.stderr


@pytest.mark.slow
def test_exit_code_3_where_it_does_not_fit(libtpu: None) -> None:
    done = plan("models/llama3.1-8b", "--on", "v5e-4", "data.batch_size=4", "data.sequence_length=2048")
    assert done.returncode == 3 and "does not fit" in done.stdout
