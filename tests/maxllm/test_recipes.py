"""The whole road as one recipe: it is interrupted, goes on where it was, and does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from maxllm import recipes
from maxllm.config import UserError, resolve
from maxllm.config.recipe import RecipeConfig

SMALL = """
kind: recipe
run_dir: {run_dir}
stages:
  - verb: curate
    config:
      inputs: [{{format: jsonl, paths: [{documents}]}}]
      language: {{enabled: false}}
      quality:
        gopher: {{min_words: 5}}
        repetition: {{enabled: false}}
        c4: {{enabled: false}}
        fineweb: {{enabled: false}}
      output: {{path: "{{run}}/documents", format: jsonl.gz}}
    outputs: ["{{run}}/documents/report.html"]
  - verb: tokenize
    config:
      documents: ["{{run}}/documents/documents/*"]
      output: "{{run}}/tokens"
      tokenizer: {{vocab_size: 400}}
      held_out: {{fraction: 0.2}}
      sequence_lengths: [64]
      shards: 1
    outputs: ["{{run}}/tokens/dataset.json"]
  - verb: train
    config:
      model: {{vocab_size: 400, hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 2, num_kv_heads: 2}}
      data: {{sequence_length: 64, batch_size: 8, sources: {{all: {{path: "{{run}}/tokens"}}}}}}
      mesh: {{data: -1, fsdp: 1}}
      compute: {{dtype: float32}}
      train: {{run_dir: "{{run}}/train", steps: 120, checkpoint_every: 20, log_every: 1}}
    outputs: ["{{run}}/train/config.yml"]
  - verb: eval
    config: {{model: "{{run}}/train", tokens: ["{{run}}/tokens"], max_documents: 3}}
    outputs: ["{{run}}/train/eval"]
  - verb: export
    arguments: ["{{run}}/train", "{{run}}/export", "--overwrite"]
    outputs: ["{{run}}/export/model.safetensors"]
  - verb: serve
    arguments: ["{{run}}/export", "engine.slots=2", "engine.max_length=128", "--check", "the quick"]
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    words = "the quick brown fox jumps over a lazy dog while seven wizards box five jugs and that is to be".split()
    with open(tmp_path / "mine.jsonl", "w") as file:
        for number in range(60):
            text = " ".join(words[(number * 7 + i * (number + 3)) % len(words)] for i in range(80 + number))
            record = {"id": str(number), "text": text, "metadata": {"group": f"site-{number}"}}
            file.write(json.dumps(record) + "\n")
    file_path = tmp_path / "recipe.yml"
    file_path.write_text(SMALL.format(run_dir=tmp_path / "run", documents=tmp_path / "mine.jsonl"))
    return file_path


def command(recipe_file: Path) -> list[str]:
    return [sys.executable, "-m", "maxllm.cli.main", "run", str(recipe_file)]


def test_interrupted_anywhere_it_goes_on_and_then_has_nothing_to_do(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen(command(recipe_file), stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not any((run / "train" / "checkpoints").glob("[0-9]*")):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGINT)  # Ctrl-C: the terminal sends it to the whole group
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output

    second = subprocess.run(command(recipe_file), capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1/6 curate is done already" in second.stdout and "2/6 tokenize is done already" in second.stdout
    steps = [json.loads(line)["step"] for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 120
    for name in ("documents/report.html", "tokens/dataset.json", "export/config.json", "train/eval"):
        assert (run / name).exists()
    served = json.loads((run / "stages" / "serve.json").read_text())["summary"]
    assert "gRPC" in served and "HTTP" in served

    third = subprocess.run(command(recipe_file), capture_output=True, text=True)
    assert third.returncode == 0 and third.stdout.count("is done already") == 6


def prepared(text: str, tmp_path: Path) -> list[recipes.Stage]:
    path = tmp_path / "other.yml"
    path.write_text(text)
    return recipes.prepare(resolve(RecipeConfig, path).config)


def test_a_change_invalidates_its_stage_and_those_after_it(recipe_file: Path, tmp_path: Path) -> None:
    before = [stage.fingerprint for stage in prepared(recipe_file.read_text(), tmp_path)]
    changed = recipe_file.read_text().replace("steps: 120", "steps: 121")
    after = [stage.fingerprint for stage in prepared(changed, tmp_path)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False, False, False]
    (tmp_path / "mine.jsonl").write_text('{"text": "other"}\n')  # the input's content, not only the settings
    assert prepared(recipe_file.read_text(), tmp_path)[0].fingerprint != before[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps: 120", "stepz: 120", ["stage train", "train.stepz", "train.steps"]),
        ("verb: eval", "verb: evaluate", ["stages.3.verb", "'eval'"]),
        ("verb: eval", "name: train\n    verb: eval", ["two stages are called train"]),
    ],
)
def test_a_mistake_in_a_late_stage_is_told_before_the_first_runs(
    recipe_file: Path, tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(recipe_file.read_text().replace(old, new), tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_demo_is_a_recipe_whose_every_stage_resolves() -> None:
    stages = recipes.prepare(resolve(RecipeConfig, "recipes/demo").config)
    assert [stage.label for stage in stages] == ["curate", "tokenize", "train", "eval", "export", "serve"]
    train = next(stage for stage in stages if stage.label == "train")
    assert yaml.safe_load(train.config_text or "")["train"]["steps"] > 0


def test_a_stage_may_begin_from_a_file_that_an_earlier_one_writes(tmp_path: Path) -> None:
    """As configs/recipes/doremi.yml does. Other mistakes in that stage are still told before the first one runs."""
    mixture = tmp_path / "run" / "proxy" / "mixture.yml"

    def stages(**main: object) -> list[recipes.Stage]:
        proxy = {"verb": "train", "name": "proxy", "outputs": ["{run}/proxy/mixture.yml"]}
        last = {
            "verb": "train",
            "name": "main",
            "config": {"base": ["train/doremi", "{run}/proxy/mixture.yml"], **main},
        }
        tree = {"kind": "recipe", "run_dir": str(tmp_path / "run"), "stages": [proxy, last]}
        return recipes.prepare(resolve(RecipeConfig, tree=tree).config)

    before = stages()[1]
    assert before.late and not stages()[0].late
    with pytest.raises(UserError, match="stage main.*train.stepz is not a setting"):
        stages(train={"stepz": 3})
    mixture.parent.mkdir(parents=True)
    mixture.write_text("data: {sources: {code: {path: runs/tokens, weight: 0.75}}}")
    after = stages()[1]
    assert yaml.safe_load(after.config_text)["data"]["sources"]["code"]["weight"] == 0.75
    assert after.fingerprint != before.fingerprint
    mixture.write_text("data: {sources: {code: {path: runs/tokens, weight: 0.5}}}")
    assert stages()[1].fingerprint != after.fingerprint
