"""Sequence-classification heads of the Hugging Face layout: tiny random weights against transformers itself.

PyTorch and transformers are no part of the development environment; MAXLLM_TORCH_PYTHON names a Python that has them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from data_beam.classify.classifier import load_classifier
from maxllm.config.classify import ClassifierConfig
from maxllm.config.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
WITH_TORCH = """
import json, sys
from pathlib import Path
sys.path += sys.argv[2:]  # last: its own packages first, what it lacks of ours from the development environment
import torch, transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from data_beam.classify.huggingface import HuggingFaceModel
from maxllm.config.errors import UserError

folder = Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "theorem", "casino", "of", "evidence", "deal"]
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
    model_max_length=64)
texts = ["the theorem of evidence", "casino deal", "", "unknown " * 500, "\\ud800 the", "the"]
results = {}
for name, labels, problem in (
    ("regression", {0: "LABEL_0"}, "regression"),
    ("classes", {0: "bad", 1: "fair", 2: "good"}, "single_label_classification"),
    ("attributes", {0: "toxic", 1: "insult"}, "multi_label_classification"),
):
    torch.manual_seed(len(labels))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, id2label=labels, label2id={v: k for k, v in labels.items()}, num_labels=len(labels),
        problem_type=problem, initializer_range=0.7)
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder / name)
    fast.save_pretrained(folder / name)
    ours = HuggingFaceModel(str(folder / name), None, "classifiers.q.model")
    expected = []
    for text in texts:
        ids = fast(text.encode("utf-8", "replace").decode(), return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            logits = model(**ids).logits[0]
        values = logits if len(labels) == 1 else logits.softmax(-1) if "single" in problem else logits.sigmoid()
        expected.append(dict(zip(ours.keys, values.tolist())))
    clamped = HuggingFaceModel(str(folder / name), (0.0, 0.1), "classifiers.q.model")
    results[name] = {
        "keys": ours.keys, "expected": expected, "found": ours.score(texts),
        "alone": [ours.score([text])[0] for text in texts],
        "clamped": clamped.score(texts), "versions": [ours.version, clamped.version],
    }
(folder / "broken").mkdir()
(folder / "broken" / "config.json").write_text("{}")
try:
    HuggingFaceModel(str(folder / "broken"), None, "classifiers.q.model")
except UserError as error:
    results["broken"] = str(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    python = os.environ.get("MAXLLM_TORCH_PYTHON")
    if not python:
        pytest.skip("MAXLLM_TORCH_PYTHON is not set: Hugging Face classifiers were not compared with transformers")
    done = subprocess.run(
        [python, "-c", WITH_TORCH, tmp_path_factory.mktemp("models"), REPOSITORY, sysconfig.get_path("purelib")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["regression", "classes", "attributes"])
def test_scores_are_those_of_transformers(results, kind):
    found = results[kind]
    for ours, theirs in zip(found["found"], found["expected"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-6)
    assert found["alone"] == found["found"]  # what else was asked changes nothing


@pytest.mark.peer
def test_a_regression_is_clamped_and_classes_are_named(results):
    assert results["regression"]["keys"] == ["score"] and results["classes"]["keys"] == ["bad", "fair", "good"]
    values = [scores["score"] for scores in results["regression"]["found"]]
    assert [scores["score"] for scores in results["regression"]["clamped"]] == [min(max(v, 0), 0.1) for v in values]
    assert any(not 0 <= value <= 0.1 for value in values)
    assert sum(results["classes"]["found"][0].values()) == pytest.approx(1, abs=1e-6)
    versions = [version for kind in ("regression", "classes", "attributes") for version in results[kind]["versions"]]
    assert len(set(versions)) == 6  # weights and clamping are part of what a score is


@pytest.mark.peer
def test_a_broken_folder_is_the_users_error(results):
    assert results["broken"].startswith("classifiers.q.model: ") and "cannot be loaded" in results["broken"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_without_pytorch_the_extra_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), "someone/some-model"):
        with pytest.raises(UserError, match=r"install maxllm\[transformers\]"):
            load_classifier(ClassifierConfig(name="edu", model=model))
    assert "torch" not in sys.modules
