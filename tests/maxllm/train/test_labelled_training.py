"""Learning labels from files: beginning with a body that learned words, stopped and gone on with, out and in again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

from maxllm.config import resolve
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.convert import hf
from maxllm.models import create
from maxllm.parallel.mesh import single_device_mesh
from maxllm.train.checkpoint import load_model
from maxllm.train.loop import Evaluation, train
from maxllm.train.metrics import read

WORDS = "the cat sat on a mat while def return import self for in range".split()
OTHERS = dict(zip(WORDS, [*WORDS[5:], *WORDS[:5]], strict=True))
ANIMALS = ("cat", "self")
STEPS = 80


class Stopped(Exception): ...


def stop(model: object, step: int) -> dict[str, float]:
    raise Stopped


def run(preset: str, folder: Path, source: Path, evaluate: Evaluation | None = None, **sections: Any) -> list[dict]:
    """The preset, narrower, on rows of 32 tokens; its records."""
    tree: dict[str, Any] = {
        "base": f"train/objectives/{preset}",
        "model": {"vocab_size": 1280, "hidden_size": 32, "intermediate_size": 48, "max_positions": 64},
        "data": {"sources": {"mine": {"path": str(source)}}, "sequence_length": 32, "batch_size": 16},
        "optimizer": {"learning_rate": 1e-2},
        "schedule": {"warmup_steps": 2},
        "train": {"run_dir": str(folder), "steps": STEPS, "log_every": 1, "checkpoint_every": 30},
    }
    tree["objective"] = {}
    tree["train"] |= {"eval_every": 40 if evaluate else 0, "eval_batches": 2}
    for section, values in sections.items():
        tree[section] |= values
    train(resolve(TrainConfig, tree=tree).config, evaluate=evaluate)
    return read(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def body(tokens, tmp_path_factory) -> Path:
    """A run of masked words."""
    folder = tmp_path_factory.mktemp("body") / "run"
    run("masked-lm", folder, tokens, train={"steps": 5})
    return folder


def write(folder: Path, line: Any) -> Path:
    """`line(words)` of two thousand texts, and held-out ones."""
    chosen = random.Random(1)
    for split, count in (("train", 2000), ("held_out", 100)):
        texts = [chosen.choices(WORDS, k=chosen.randint(3, 8)) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line(text)) + "\n" for text in texts))
    return folder


def with_cat(words: list[str]) -> dict[str, Any]:
    return {"text": " ".join(words), "label": "yes" if "cat" in words else "no"}


NAMED = {"labels": {"kind": "sequence", "names": ["no", "yes"]}}


def test_classes_are_learned_and_a_stopped_run_goes_on_exactly(body, tmp_path, capsys):
    source = write(tmp_path, with_cat)
    settings = {"model": NAMED, "train": {"init_from": str(body)}}
    whole = run("classification", tmp_path / "whole", source, **settings)
    assert "new ones: label_head" in capsys.readouterr().out
    assert whole[-1]["held_out_accuracy"] > 0.9 > whole[0]["accuracy"]
    with pytest.raises(Stopped):  # after step 40; step 30 is saved
        run("classification", tmp_path / "parts", source, stop, **settings)
    again = run("classification", tmp_path / "parts", source, **settings)
    assert [record["loss"] for record in again] == [record["loss"] for record in whole]

    model, tokenizer, config = load_model(tmp_path / "whole")
    hf.save(model, tokenizer, tmp_path / "hf")
    described = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert described["id2label"] == {"0": "no", "1": "yes"}
    theirs_ids = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert theirs_ids.encode("the cat").ids == tokenizer.encode("the cat", bos=True, eos=True)
    back, _, theirs = hf.load(tmp_path / "hf")
    assert theirs.labels == config.labels
    jax.tree.map(np.testing.assert_array_equal, nnx.split(model)[1], nnx.split(back)[1])


def test_positions_that_would_be_counted_from_a_words_id_are_not_exported(body, tmp_path):
    model, tokenizer, config = load_model(body)
    at_begin = config.encoder.model_copy(update={"position_offset": tokenizer.bos_id + 1})
    other = create(config.model_copy(update={"encoder": at_begin}), ComputeConfig(), single_device_mesh(), 0)
    with pytest.raises(UserError, match=r"begin_of_text.*model.encoder.position_offset=4"):
        hf.save(other, tokenizer, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_body_is_the_one_given_and_the_head_alone_is_new(body, tmp_path):
    source = write(tmp_path, with_cat)
    still = {"model": NAMED, "train": {"init_from": str(body), "steps": 2}, "optimizer": {"learning_rate": 1e-30}}
    run("classification", tmp_path / "run", source, **still)
    ours, given = (dict(nnx.to_flat_state(nnx.split(load_model(path)[0])[1])) for path in (tmp_path / "run", body))
    new = {place for place in ours if place not in given}
    assert {place[0] for place in new} == {"label_head"}
    for place in ours.keys() - new:
        np.testing.assert_allclose(ours[place][...], given[place][...], atol=1e-12)


def test_files_with_labels_need_a_tokenizer(tmp_path):
    source = write(tmp_path, with_cat)
    with pytest.raises(UserError, match="no tokenizer for files with labels"):
        run("classification", tmp_path / "run", source, model=NAMED)


def test_another_body_is_refused_with_the_settings_that_would_fit(body, tmp_path):
    source = write(tmp_path, with_cat)
    with pytest.raises(UserError, match="model.num_layers=2"):
        run(
            "classification", tmp_path / "run", source, model={**NAMED, "num_layers": 3}, train={"init_from": str(body)}
        )


@pytest.mark.slow
def test_labels_of_words_are_learned(body, tmp_path):
    def line(words: list[str]) -> dict[str, Any]:
        return {"words": words, "labels": [int(word in ANIMALS) for word in words]}

    labels = {"labels": {"kind": "token", "count": 2, "hidden": "none", "names": []}}
    records = run(
        "classification", tmp_path / "run", write(tmp_path, line), model=labels, train={"init_from": str(body)}
    )
    assert records[-1]["held_out_accuracy"] > 0.97


@pytest.mark.slow
def test_passages_are_ranked(body, tmp_path):
    def line(words: list[str]) -> dict[str, Any]:
        return {
            "query": words[0],
            "positive": " ".join([*words, "cat"]),
            "negative": " ".join(w for w in words if w != "cat"),
        }

    records = run("rerank", tmp_path / "run", write(tmp_path, line), train={"init_from": str(body)})
    assert records[-1]["held_out_accuracy"] > 0.9


@pytest.mark.slow
def test_texts_that_belong_together_are_found(body, tmp_path):
    def line(words: list[str]) -> dict[str, Any]:
        return {"query": " ".join(words), "positive": " ".join(OTHERS[word] for word in words)}

    records = run("contrastive", tmp_path / "run", write(tmp_path, line), train={"init_from": str(body)})
    assert records[-1]["held_out_accuracy"] > 2 * records[0]["accuracy"]
    assert records[-1]["held_out_accuracy"] > 0.25  # of some thirty passages


@pytest.mark.slow
def test_a_decoder_learns_classes_from_texts_last_tokens(body, tokens, tmp_path):
    source = write(tmp_path, with_cat)
    decoder = {
        "architecture": "decoder", "family": "llama", "positions": "rope", "norm": "rms", "norm_placement": "pre",
        "activation": "silu", "gated": True, "biases": [], "embedding_norm": False, "tie_embeddings": False,
        "encoder": {"position_offset": 0, "type_vocab_size": 0},
    }  # fmt: skip
    run("masked-lm", tmp_path / "words", tokens, model=decoder, objective={"name": "causal_lm"}, train={"steps": 2})
    model = {**decoder, "labels": {"kind": "sequence", "names": ["no", "yes"], "pooling": "last", "hidden": "none"}}
    records = run("classification", tmp_path / "run", source, model=model, train={"init_from": str(tmp_path / "words")})
    assert records[-1]["held_out_accuracy"] > 0.8
