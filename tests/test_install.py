"""What a user installs: the wheel carries the presets, and each extra brings its floor and no other."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_ships_the_three_packages_and_the_presets(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("maxllm/cli/main.py", "data_beam/document.py", "serving/__init__.py"):
        assert name in names
    presets = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yml")}
    assert presets and {f"maxllm/{preset}" for preset in presets} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_lock_records_no_index_address() -> None:
    for name in ("requirements.lock", "requirements-nodeps.txt"):
        text = (REPOSITORY / name).read_text()
        assert "://" not in text and "--hash=sha256:" in text and "--index" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "modules", "absent"),
    [
        ("", ["maxllm.config.kinds", "maxllm.tokenizer", "maxllm.batch"], ["jax", "apache_beam", "tensorflow"]),
        ("data", ["data_beam.pipeline", "data_beam.tokens"], ["jax", "flax", "tensorflow", "torch"]),
        ("train", ["maxllm.train.loop", "maxllm.generate.engine"], ["apache_beam", "tensorflow", "torch", "fastapi"]),
        ("serve", ["serving.server.main"], ["apache_beam", "tensorflow", "torch"]),
        ("eval", ["maxllm.eval.report"], ["apache_beam", "tensorflow", "torch"]),
    ],
)
def test_each_extra_brings_its_floor_and_no_other(
    wheel: Path, tmp_path: Path, extra: str, modules: list[str], absent: list[str]
) -> None:
    """Installs the wheel, with one extra, into an environment of its own."""
    subprocess.run([UV, "venv", "-q", "-p", sys.executable, str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    target = f"{wheel}[{extra}]" if extra else str(wheel)
    subprocess.run([UV, "pip", "install", "-q", "-p", str(python), target], check=True)
    code = (
        f"import importlib, importlib.util\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"present = [n for n in {absent!r} if importlib.util.find_spec(n)]\nassert not present, present\n"
    )
    subprocess.run([str(python), "-c", code], check=True, cwd=tmp_path)
    listing = subprocess.run(
        [str(python), "-m", "maxllm.cli.main", "config", "train/demo"], cwd=tmp_path, capture_output=True, text=True
    )
    assert listing.returncode == 0 and "num_layers" in listing.stdout, listing.stderr
