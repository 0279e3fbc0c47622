from __future__ import annotations

import gzip
import json
import logging
import random
from pathlib import Path

import pytest

from data_beam.io.files import File
from data_beam.ngram import training
from data_beam.ngram.model import load_model
from data_beam.ngram.training import default_shards, train
from data_beam.output import files_below
from maxllm.config.errors import UserError
from maxllm.config.perplexity import NgramConfig


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    draw = random.Random(1)
    words = [f"W{n}" for n in range(50)]
    weights = [1 / (n + 1) for n in range(50)]
    path = tmp_path_factory.mktemp("source") / "in.jsonl"
    with path.open("w") as stream:
        for number in range(40):
            lines = [" ".join(draw.choices(words, weights, k=draw.randint(1, 9))) for _ in range(6)]
            stream.write(json.dumps({"id": str(number), "text": "\n".join(lines)}) + "\n")
        stream.write("not a document\n")
    return str(path)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("finished")
    train(config_of(source, path))
    return path


def config_of(source: str, output: Path, **settings) -> NgramConfig:
    defaults = {"order": 2, "discount_fallback": [0.5, 1, 1.5], "shards": 2}
    return NgramConfig(documents=[source], output=str(output), **defaults | settings)


def names_below(folder: Path) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in files_below(str(folder))]


def test_the_folder_says_what_it_holds(finished):
    assert names_below(finished) == ["_SUCCESS", "model.arpa", "ngram.json"]
    description = json.loads((finished / "ngram.json").read_text())
    assert (description["order"], description["model"], description["lines"]) == (2, "model.arpa", 240)
    assert description["preparation"] == {"normalisation": "none", "tokenizer": None}
    assert description["skipped"]["count"] == 1 and description["skipped"]["first"][0]["where"].endswith("in.jsonl:41")
    head = (finished / "model.arpa").read_text().split("\n\n")[0]
    assert head == "\\data\\\n" + "\n".join(f"ngram {n}={c}" for n, c in enumerate(description["ngrams"], 1))


def test_a_finished_model_is_left_and_another_configs_is_not_overwritten(finished, source, caplog):
    caplog.set_level(logging.INFO, "maxllm.progress")
    before = (finished / "model.arpa").stat().st_mtime_ns
    assert train(config_of(source, finished))["order"] == 2
    assert "nothing to do" in caplog.text and (finished / "model.arpa").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another config or other inputs.*--force"):
        train(config_of(source, finished, order=3))


def test_a_run_stopped_after_counting_goes_on_from_there_and_force_replaces(
    finished, source, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, "maxllm.progress")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "estimate", stop)
        train(config_of(source, tmp_path))
    assert names_below(tmp_path) and "model.arpa" not in names_below(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "count", stop)
        train(config_of(source, tmp_path))
    assert "count: done before" in caplog.text
    assert (tmp_path / "model.arpa").read_bytes() == (finished / "model.arpa").read_bytes()

    train(config_of(source, tmp_path, format="arpa.gz", shards=5), force=True)
    assert names_below(tmp_path) == ["_SUCCESS", "model.arpa.gz", "ngram.json"]
    # The parts' number orders the lines and changes no number.
    other = gzip.decompress((tmp_path / "model.arpa.gz").read_bytes()).decode()
    assert sorted(other.splitlines()) == sorted((finished / "model.arpa").read_text().splitlines())


def test_the_tokenizer_and_normalisation_go_with_the_model(source, shared_data, tmp_path):
    tokenizer = str(shared_data / "tokenizers" / "sentencepiece" / "test_model.model")
    config = config_of(source, tmp_path / "out", preparation={"normalisation": "ccnet", "tokenizer": tokenizer})
    description = train(config)
    assert description["preparation"] == {"normalisation": "ccnet", "tokenizer": "tokenizer/tokenizer.model"}
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    model = load_model(str(moved), None)
    # ▁w, 0 and the like: the upper case W is unknown to the model only if it is not lowered.
    assert model.log10("W3 W17") == model.log10("w9 w42")
    assert model.log10("W3 W17")[1] > 3


def test_what_cannot_be_done_is_said_in_one_sentence(source, tmp_path):
    with pytest.raises(UserError, match="documents is empty"):
        train(NgramConfig(output=str(tmp_path / "out")))
    with pytest.raises(UserError, match="documents: nothing matches"):
        train(config_of(str(tmp_path / "none.jsonl"), tmp_path / "out"))
    (tmp_path / "blank.jsonl").write_text(json.dumps({"id": "1", "text": " \n\t<s>\n"}))
    with pytest.raises(UserError, match="no line with a word"):
        train(config_of(str(tmp_path / "blank.jsonl"), tmp_path / "out"))
    (tmp_path / "small.jsonl").write_text(json.dumps({"id": "1", "text": "a b c"}))
    with pytest.raises(UserError, match="too small or too odd.*set discount_fallback"):
        train(config_of(str(tmp_path / "small.jsonl"), tmp_path / "out", discount_fallback=None))
    assert not (tmp_path / "out" / "model.arpa").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prune": [0, 2, 1]}, "must not decrease"),
        ({"prune": [0, 0, 1], "order": 2}, "3 thresholds"),
        ({"discount_fallback": [0.5, 1]}, "wants three"),
        ({"discount_fallback": [1.5, 1, 1.5]}, "not in"),
    ],
)
def test_settings_that_make_no_model_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        NgramConfig(**settings)


def test_parts_follow_the_size_of_the_text():
    assert default_shards([File("a.jsonl", 1, "")]) == 1
    assert default_shards([File("a.jsonl", 4_000_001, ""), File("b.jsonl.zst", 1_000_000, "")]) == 3


@pytest.mark.slow
def test_two_worker_processes_write_the_same_bytes(finished, source, tmp_path):
    train(config_of(source, tmp_path), ["--direct_num_workers", "2"])
    assert (tmp_path / "model.arpa").read_bytes() == (finished / "model.arpa").read_bytes()
