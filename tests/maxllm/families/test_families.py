"""Every family against what PyTorch and transformers computed from its golden folder (see make_golden.py)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maxllm.cli.main import main
from maxllm.convert import families, hf
from maxllm.families.checks import CHECKS, Subject, check
from maxllm.families.table import failures, markdown, replace_between

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
# Of these another folder shows the same parts: they are for the long suite.
VARIANTS = {
    "bert_sequence", "deepseek_v3", "electra_generator", "gemma", "gpt2", "llama_tied", "qwen3", "roberta_token", "t5",
}  # fmt: skip
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in NAMES]


def subject(name: str) -> Subject:
    return Subject(GOLDEN / name, GOLDEN / name / "expected.npz")


def assert_holds(name: str, *columns: str) -> None:
    assert failures({name: check(subject(name), columns)}) == []


def test_every_family_that_can_be_imported_has_a_golden_folder():
    covered = {json.loads((GOLDEN / name / "config.json").read_text())["model_type"] for name in NAMES}
    for family in families.FAMILIES:
        assert covered & set(family.model_types), family.name


@pytest.mark.parametrize("name", EACH)
def test_texts_packed_in_a_row_score_as_in_transformers(name: str):
    assert_holds(name, "packed")


@pytest.mark.parametrize("name", EACH)
def test_export_gives_the_same_tensors_bit_for_bit(name: str):
    assert_holds(name, "export")


@pytest.mark.parametrize("name", ["gemma3"])
def test_the_engine_continues_as_transformers_does(name: str):
    assert_holds(name, "generate")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_the_table_holds(name: str):
    assert_holds(name, *CHECKS)


# The checks see what is wrong.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "llama", tmp_path / "mine"))


def edit(folder: Path, tensor: str, place: tuple[int, ...], value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor] = tensors[tensor].copy()
    tensors[tensor][place] += value
    save_file(tensors, folder / "model.safetensors")


def test_one_number_changed_turns_its_cells_red(folder: Path):
    edit(folder, "model.layers.1.self_attn.q_proj.weight", (3, 5), 0.1)
    broken = Subject(folder, folder / "expected.npz")
    cells = check(broken, ["import", "packed", "export"])
    assert "is allowed" in cells["packed"].failure
    assert not cells["import"].failure and not cells["export"].failure  # the model is sound, only another one
    assert "**FAIL**" in markdown({"mine": dict.fromkeys(CHECKS, cells["packed"])})


def test_what_cannot_be_read_is_red_in_every_cell_with_its_reason(folder: Path):
    edit(folder, "lm_head.weight", (0, 0), np.nan)
    assert "not finite" in check(Subject(folder), ["import"])["import"].failure
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    cells = check(Subject(folder), CHECKS)
    assert all("model_type 'mamba' is not supported" in cell.failure for cell in cells.values())


def test_the_table_goes_between_its_marks(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    replace_between(page, "<!-- a -->", "<!-- b -->", "new\n")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- b -->\nafter\n"


def test_the_command_refuses_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["families", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["families", str(GOLDEN / "llama"), str(GOLDEN / "bert"), "--expected", "x.npz"]) == 2
    assert "2 FOLDERs" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_checks_a_users_folder_without_a_reference(folder: Path, tmp_path: Path):
    (folder / "expected.npz").unlink()
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "maxllm.cli.main", "families", str(folder), "--write", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 models, 9 cells, 0 failed" in done.stdout
    assert "| mine | " in page.read_text()


@pytest.mark.peer
def test_transformers_reads_our_exports_as_the_models_they_were(torch_python: Path, tmp_path: Path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        hf.write_model(subject(name).model, tmp_path / name)
    command = [torch_python, HERE / "read_exports.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == set(NAMES)
    wrong = {name: told for name, told in found.items() if told["strange"] or not told["error"] <= 1e-5}
    assert not wrong
