"""Files, gin and overrides resolve to one tree; a mistake is one sentence that says where and what instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maxllm.cli.main import main
from maxllm.config import UserError, resolve, to_yaml
from maxllm.config.kinds import ROOTS, root_of
from maxllm.config.load import leaves, presets_folder
from maxllm.config.train import TrainConfig

RULES = """
kind: train
mesh_rules:
  - device: v5p
    set: {mesh: {fsdp: 4, tensor: 2}}
  - device: cpu
    set: {compute: {dtype: float32}}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_precedence_default_base_file_rules_gin_param_override(tmp_path: Path) -> None:
    write(tmp_path / "base.yml", "kind: train\noptimizer: {learning_rate: 1e-3, b1: 0.8, b2: 0.8, eps: 1e-6}\n")
    file = write(tmp_path / "mine.yml", "base: base.yml\noptimizer: {b1: 0.81, weight_decay: 0.2}\n")
    gin = write(tmp_path / "mine.gin", "B = 0.82\noptimizer.b2 = %B\noptimizer.weight_decay = 0.3\n")
    config, origins = resolve(
        TrainConfig,
        file,
        ["optimizer.clip_norm=0.5"],
        gin_files=[str(gin)],
        gin_params=["optimizer.weight_decay = 0.4"],
    )
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.b1, optimizer.b2) == (1e-3, 0.81, 0.82)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.eps) == (0.4, 0.5, 1e-6)
    assert origins[("optimizer", "learning_rate")].endswith("base.yml:2")
    assert origins[("optimizer", "b1")].endswith("mine.yml:2")
    assert origins[("optimizer", "b2")].endswith("mine.gin:2")
    assert "--gin-param" in origins[("optimizer", "weight_decay")]
    assert "command line" in origins[("optimizer", "clip_norm")]


def test_mesh_rules_apply_to_the_device_kind_and_an_override_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "rules.yml", RULES)
    assert resolve(TrainConfig, file).config.mesh.tensor == 1
    pod = resolve(TrainConfig, file, device_kind="TPU v5p")
    assert (pod.config.mesh.fsdp, pod.config.mesh.tensor) == (4, 2)
    assert pod.origins[("mesh", "tensor")] == "mesh_rules.0 (v5p)"
    assert resolve(TrainConfig, file, device_kind="cpu").config.compute.dtype == "float32"
    assert resolve(TrainConfig, file, ["mesh.tensor=1"], device_kind="TPU v5p").config.mesh.tensor == 1


def test_maps_merge_and_lists_replace(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yml",
        "kind: curate\ninputs: [{format: html, paths: [a]}, {format: warc, paths: [b]}]\n"
        "language: {languages: [en, de], min_confidence: 0.5}\n",
    )
    file = write(tmp_path / "mine.yml", "base: base.yml\nlanguage: {languages: [fr]}\n")
    config, origins = resolve(ROOTS["curate"], file, ["inputs.1.limit=7"])
    assert config.language.languages == ["fr"] and config.language.min_confidence == 0.5
    assert [source.limit for source in config.inputs] == [None, 7]
    assert origins[("inputs", "0", "format")].endswith("base.yml:2")


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("optimizer: {lerning_rate: 1e-4}", [], ["mine.yml:1", "optimizer.lerning_rate", "optimizer.learning_rate"]),
        ("learning_rate: 1e-4", [], ["learning_rate is not a setting", "optimizer.learning_rate"]),
        ("{}", ["optimizer.lerning_rate=1"], ["command line", "did you mean optimizer.learning_rate"]),
        ("train: {steps: many}", [], ["mine.yml:1", "train.steps is 'many'", "integer"]),
        ("model: {num_heads: 8, num_kv_heads: 3}", [], ["mine.yml:1", "model", "8", "3", "not divisible"]),
        ("data: {sequence_length: 4096}", [], ["mine.yml", "data.sequence_length 4096", "model.max_positions 2048"]),
        ("optimizer: {b1: 1, b1: 2}", [], ["mine.yml:1", "optimizer.b1 is given twice"]),
        ("optimizer: [", [], ["mine.yml", "not YAML"]),
        ("- 1", [], ["mine.yml", "not a mapping"]),
        ("kind: serve", [], ["mine.yml", "`serve` config"]),
        ("base: nowhere", [], ["nowhere", "no such config file"]),
        ("base: mine.yml", [], ["mine.yml", "its own base"]),
        ("{}", ["optimizer.b1"], ["'optimizer.b1'", "key=value"]),
        ("{}", ["optimizer=3"], ["optimizer is 3"]),
        ("mesh: {data: -1, fsdp: -1}", [], ["mesh", "more than one axis is -1"]),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, overrides: list[str], words: list[str]) -> None:
    file = write(tmp_path / "mine.yml", text)
    with pytest.raises(UserError) as caught:
        resolve(TrainConfig, file, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "param", ["optimizer.b1 =", "a/optimizer.b1 = 1", "optimizer.b1 = @f", "optimizer.b1 = %X", "import os"]
)
def test_gin_is_syntax_only(tmp_path: Path, param: str) -> None:
    with pytest.raises(UserError, match="gin"):
        resolve(TrainConfig, None, gin_params=[param])
    with pytest.raises(UserError, match="gin"):
        resolve(TrainConfig, None, gin_files=[str(write(tmp_path / "mine.gin", param))])


def test_a_gin_file_may_include_another(tmp_path: Path) -> None:
    write(tmp_path / "base.gin", "optimizer.b1 = 0.7\nLR = 0.5\n")
    file = write(tmp_path / "mine.gin", "include 'base.gin'\noptimizer.learning_rate = %LR\n")
    config = resolve(TrainConfig, None, gin_files=[str(file)]).config
    assert (config.optimizer.b1, config.optimizer.learning_rate) == (0.7, 0.5)


@pytest.mark.parametrize(
    "preset", sorted(presets_folder().rglob("*.yml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_preset_resolves_and_prints_itself_back(preset: Path, tmp_path: Path) -> None:
    resolved = resolve(root_of(str(preset)), preset)
    again = write(tmp_path / "printed.yml", to_yaml(resolved.config, resolved.origins))
    assert resolve(type(resolved.config), again).config == resolved.config
    assert resolve(type(resolved.config), write(again, to_yaml(resolved.config))).config == resolved.config


def test_the_number_of_settings_stays_small() -> None:
    """Rule thresholds aside, a user of one verb faces fewer than 200 settings; MaxText's file has 696."""
    for kind, root in ROOTS.items():
        count = len([path for path, _ in leaves(root) if "quality" not in path])
        assert count < 160, f"{kind} has {count} settings"


def test_the_command_prints_origins_and_exits_2_without_a_traceback(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yml", RULES)
    command = [sys.executable, "-m", "maxllm.cli.main", "config", str(file)]
    good = subprocess.run([*command, "optimizer.b1=0.5", "--device-kind", "TPU v5p"], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert "mesh_rules.0 (v5p)" in good.stdout and "# default" in good.stdout
    bad = subprocess.run([*command, "optimizer.bq=1"], capture_output=True, text=True)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr and len(bad.stderr.splitlines()) == 1


def test_importing_maxllm_imports_neither_jax_nor_beam() -> None:
    code = (
        "import sys, maxllm, maxllm.config.kinds, maxllm.batch, maxllm.tokenizer, maxllm.cli.main as m; "
        "m.build_parser(); bad = {'jax', 'apache_beam', 'flax', 'orbax', 'torch'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_beam_worker_needs_no_jax() -> None:
    code = (
        "import sys, pkgutil, importlib, data_beam; "
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(data_beam.__path__, 'data_beam.')]; "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_override_may_stand_after_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "train/demo", "--device-kind", "cpu", "train.steps=77"]) == 0
    assert "steps: 77" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["config", "train/demo", "--device-kind", "cpu", "nonsense"])
