"""Agreement with KenLM: its trainer's model files, and its scores, kept in golden/ (see the README there)."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_beam.ngram.scorer import ArpaScorer
from data_beam.ngram.training import train
from maxllm.config.perplexity import NgramConfig

GOLDEN = Path(__file__).parent / "golden"
# What lmplz computes and prints in float32.
FLOAT32 = 1e-6
RECIPES = {
    "order3": {"order": 3},
    "order5": {"order": 5, "prune": [0, 1, 1, 2], "discount_fallback": [0.5, 1, 1.5]},
    "tiny": {"order": 3, "discount_fallback": [0.5, 1, 1.5]},
}


def read_arpa(text: str) -> dict[str, tuple[float, ...]]:
    rows = (line.split("\t") for line in text.splitlines() if "\t" in line)
    return {row[1]: (float(row[0]), float(row[2]) if len(row) > 2 else 0.0) for row in rows}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """The golden recipes, done by us."""
    folder = tmp_path_factory.mktemp("models")
    lines = (GOLDEN / "text.txt").read_text().splitlines()
    found = {}
    for name, recipe in RECIPES.items():
        chosen = [*lines[:6], lines[-1]] if name == "tiny" else lines
        path = folder / f"{name}.jsonl"
        path.write_text(json.dumps({"id": "1", "text": "\n".join(chosen)}))
        found[name] = folder / name
        train(NgramConfig(documents=[str(path)], output=str(found[name]), shards=2, **recipe))
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_is_lmplzs(models, name):
    ours = read_arpa((models[name] / "model.arpa").read_text())
    theirs = read_arpa(gzip.decompress((GOLDEN / f"{name}.arpa.gz").read_bytes()).decode())
    assert ours.keys() == theirs.keys()
    for ngram, values in theirs.items():
        assert ours[ngram] == pytest.approx(values, abs=FLOAT32), ngram


def test_an_order_that_the_text_is_too_short_for_is_empty_as_lmplzs(tmp_path):
    """`echo a | lmplz -o 4 --discount_fallback`"""
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "text": "a"}))
    settings = {"order": 4, "discount_fallback": [0.5, 1, 1.5]}
    train(NgramConfig(documents=[str(tmp_path / "a.jsonl")], output=str(tmp_path / "out"), **settings))
    text = (tmp_path / "out" / "model.arpa").read_text()
    assert "ngram 4=0\n" in text
    assert read_arpa(text) == {
        "<unk>": (pytest.approx(-0.7781512), 0),
        "<s>": (0, pytest.approx(-0.30103)),
        "</s>": (pytest.approx(-0.38021123), 0),
        "a": (pytest.approx(-0.38021123), pytest.approx(-0.30103)),
        "a </s>": (pytest.approx(-0.1497623), 0),
        "<s> a": (pytest.approx(-0.1497623), pytest.approx(-0.30103)),
        "<s> a </s>": (pytest.approx(-0.06845737), 0),
    }
    assert ArpaScorer(str(tmp_path / "out" / "model.arpa")).score([["a", "b"]]) == pytest.approx(-1.9101848)


@pytest.mark.parametrize("name", ["order3", "order5"])
@pytest.mark.parametrize("ours", [True, False], ids=["our model", "lmplz's model"])
def test_scores_are_kenlms_word_by_word(models, name, ours):
    scorer = ArpaScorer(str(models[name] / "model.arpa" if ours else GOLDEN / f"{name}.arpa.gz"))
    for golden in json.loads((GOLDEN / "scores.json").read_text())[name]:
        line = golden["line"].split()
        assert scorer.token_scores([line]) == pytest.approx(golden["words"], abs=FLOAT32)
        assert scorer.score([line]) == pytest.approx(golden["score"], abs=1e-5)


@pytest.fixture(scope="session")
def kenlm_python(tmp_path_factory) -> str:
    """A Python that has kenlm: $MAXLLM_KENLM_PYTHON, this one, or a throw-away environment in which it is built."""
    if path := os.environ.get("MAXLLM_KENLM_PYTHON"):
        return path
    if subprocess.run([sys.executable, "-c", "import kenlm"], capture_output=True).returncode == 0:
        return sys.executable
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    if not (Path(uv).exists() and shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("kenlm is not installed and cannot be built here: needs uv, cmake and a C++ compiler")
    folder = tmp_path_factory.mktemp("kenlm")
    subprocess.run([uv, "venv", "-q", str(folder)], check=True)
    built = subprocess.run([uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), "kenlm>=0.3"])
    if built.returncode:
        pytest.skip("kenlm could not be built here")
    return str(folder / "bin" / "python")


SCORE = """
import json, sys, kenlm
model, lines = kenlm.Model(sys.argv[1]), json.load(sys.stdin)
json.dump([[model.score(line), [p for p, _, _ in model.full_scores(line)]] for line in lines], sys.stdout)
"""


@pytest.mark.peer
@pytest.mark.parametrize("format", ["arpa", "arpa.gz"])
def test_kenlm_reads_our_model_and_scores_lines_as_we_do(kenlm_python, shared_data, tmp_path, format):
    """On real text, of which every tenth line is held out; KenLM adds up a line in float32, hence word by word."""
    text = gzip.open(shared_data / "corpus" / "botchan_en.txt.gz", "rt").read()
    lines = [line.replace("\0", " ") for line in text.splitlines() if line.split()]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "text": line}) + "\n" for n, line in enumerate(lines) if n % 10)
    )
    train(
        NgramConfig(
            documents=[str(tmp_path / "in.jsonl")], output=str(tmp_path / "out"), order=4, shards=3, format=format
        )
    )
    model = str(tmp_path / "out" / f"model.{format}")
    held_out = lines[::10]
    asked = subprocess.run(
        [kenlm_python, "-c", SCORE, model], input=json.dumps(held_out), capture_output=True, text=True, check=True
    )
    scorer = ArpaScorer(model)
    for line, (score, by_word) in zip(held_out, json.loads(asked.stdout), strict=True):
        assert scorer.token_scores([line.split()]) == pytest.approx(by_word, abs=1e-5)
        assert scorer.score([line.split()]) == pytest.approx(score, abs=1e-4)
