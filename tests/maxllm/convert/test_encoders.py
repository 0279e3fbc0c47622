"""Encoders' folders: heads by the class's name, old names, what published folders carry besides, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from maxllm.config.errors import UserError
from maxllm.config.model_parts import LabelsConfig
from maxllm.convert import hf, weights
from tests.maxllm.models.encoders import BERT, DEBERTA_V3, ELECTRA, changed, model

GOLDEN = Path(__file__).parent.parent / "families" / "golden"


@pytest.fixture
def folder(tmp_path):
    def copied(name: str, **settings) -> Path:
        path = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
        values = json.loads((path / "config.json").read_text()) | settings
        (path / "config.json").write_text(json.dumps(values))
        return path

    return copied


def same(one: nnx.Module, other: nnx.Module) -> None:
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one), nnx.state(other))


def written(config, path: Path) -> Path:
    path.mkdir()
    weights.save(model(config), path, "float32", 10**9)
    (path / "config.json").write_text(json.dumps(hf.settings_of(config)))
    return path


LABELS = {
    "classes": LabelsConfig(count=3),
    "score": LabelsConfig(kind="rerank"),
    "tokens": LabelsConfig(kind="token", count=5, hidden="none"),
    "vectors": LabelsConfig(kind="embedding", pooling="first", hidden="none"),
}


@pytest.mark.parametrize("labels", LABELS)
def test_a_head_for_labels_goes_out_and_comes_back(labels, tmp_path):
    config = changed(labels=LABELS[labels])
    path = written(config, tmp_path / "out")
    assert hf.load_config(path).labels == LABELS[labels]
    same(hf.load_decoder(path), model(config))


def test_a_head_that_no_folder_can_say_is_refused():
    with pytest.raises(UserError, match="labels.pooling mean"):
        hf.settings_of(changed(labels=LabelsConfig(pooling="mean")))


def test_a_mask_decoder_and_its_positions_go_out_and_come_back(tmp_path):
    config = type(BERT)(**DEBERTA_V3.model_dump() | {"family": "deberta_v2"})
    path = written(config, tmp_path / "out")
    assert hf.load_config(path).encoder == config.encoder
    same(hf.load_decoder(path), model(config))


def test_of_electra_the_discriminator_is_written(tmp_path):
    class Words:
        bos_id, eos_id, pad_id = None, 2, 0

        def save_huggingface(self, folder, enclosed):
            pass

    both = model(changed(**ELECTRA.model_dump() | {"family": "electra"}))
    hf.save(both, Words(), tmp_path / "out")
    same(hf.load_decoder(tmp_path / "out"), both.discriminator)


def test_heads_of_other_tasks_and_old_names_are_read_over(folder):
    path = folder("bert")
    want = hf.load_decoder(path)
    tensors = load_file(path / "model.safetensors")
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    tensors["bert.embeddings.position_ids"] = np.arange(32)[None]
    save_file(tensors, path / "model.safetensors")
    same(hf.load_decoder(path), want)
    values = json.loads((path / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (path / "config.json").write_text(json.dumps(values))
    fewer = hf.load_decoder(path)  # as bert-base-uncased is published
    assert not hasattr(fewer, "label_head")
    same(fewer.words, want.words)


def test_debertas_words_go_by_either_name(folder):
    path = folder("deberta")
    want = hf.load_decoder(path)
    tensors = load_file(path / "model.safetensors")
    for name in list(tensors):
        if name.startswith("lm_predictions.lm_head."):
            own = name.removeprefix("lm_predictions.lm_head.")
            legacy = f"cls.predictions.{own if own == 'bias' else f'transform.{own}'}"
            tensors[legacy] = tensors.pop(name)
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
    save_file(tensors, path / "model.safetensors")
    same(hf.load_decoder(path), want)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("deberta_v3", {"conv_kernel_size": 3}, "no convolution"),
        ("deberta_v3", {"position_biased_input": True}, "absolute positions"),
        ("deberta", {"pos_att_type": ["c2p"]}, "c2p and p2c"),
        ("deberta", {"talking_head": True}, "talking_head"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, "ForQuestionAnswering"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_what_we_do_not_compute_is_refused_in_a_sentence(folder, name, settings, reason):
    with pytest.raises(UserError, match=reason):
        hf.load_config(folder(name, **settings))
