"""DeepSeek-V3's folders: the module behind the last layer, and rotary dimensions in pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from maxllm.convert import families, hf, weights
from maxllm.convert.families.deepseek_v3 import in_pairs
from maxllm.convert.safetensors_io import TensorFile, TensorFolder
from maxllm.convert.tensors import LINEAR
from maxllm.models.prediction import further
from maxllm.parallel.mesh import single_device_mesh

GOLDEN = Path(__file__).parent / "golden" / "deepseek_v3_prediction"
WITHOUT = Path(__file__).parent.parent / "families" / "golden" / "deepseek_v3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny model in two files: itself, and the module."""
    folder = tmp_path_factory.mktemp("model")
    config = json.loads((WITHOUT / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    files = {"one.safetensors": WITHOUT / "model.safetensors", "two.safetensors": GOLDEN / "module.safetensors"}
    index = {}
    for name, path in files.items():
        shutil.copy(path, folder / name)
        index |= {tensor: name for tensor in TensorFile(path).names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return weights.load(folder, hf.load_config(folder), "float32", single_device_mesh())


def test_the_further_predicting_module_computes_what_transformers_computes(model):
    expected = np.load(GOLDEN / "expected.npz")
    tokens = expected["tokens"].astype(np.int32)
    positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(tokens), 1))

    @nnx.jit
    def logits(model):
        hidden = model.hidden(tokens, positions)
        ((more, _),) = further(model, hidden, tokens, positions, np.ones_like(tokens))
        return model.logits(hidden), model.logits(more)

    own, prediction = logits(model)
    np.testing.assert_allclose(own, expected["logits"], atol=1e-4)
    np.testing.assert_allclose(prediction[:, :-1], expected["prediction"], atol=1e-4)


def test_a_module_is_exported_where_it_came_from(model, folder, tmp_path):
    weights.save(model, tmp_path, "float32", 10**9)
    theirs, ours = TensorFolder(folder), TensorFolder(tmp_path)
    assert set(theirs) == set(ours)
    for name in theirs:
        shape = theirs.files[name].read(name).shape
        np.testing.assert_array_equal(theirs.read(name, shape), ours.read(name, shape))
    told = families.by_name("deepseek_v3").to_huggingface(model.config)
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert hf.load_config(tmp_path).prediction_layers == 1


def test_a_folder_that_counts_a_module_it_does_not_have_is_a_model_without(tmp_path):
    """transformers writes such folders: it loads a published one, leaves the module out and keeps the number."""
    shutil.copytree(WITHOUT, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": 1}))
    assert hf.load_config(tmp_path / "model").prediction_layers == 0


def test_pairs_become_halves_and_back():
    """Their row 2i + j of the turned part is our column i + j · width / 2."""
    layout, ours = in_pairs(LINEAR, 6), np.random.default_rng(0).normal(size=(5, 2, 10))  # [in, heads, 4 + 6]
    theirs = layout.to_theirs(ours)
    assert theirs.shape == layout.shape(ours.shape) == (20, 5)
    for head, i, j in np.ndindex(2, 3, 2):
        np.testing.assert_array_equal(theirs[10 * head + 4 + 2 * i + j], ours[:, head, 4 + i + 3 * j])
    np.testing.assert_array_equal(layout.to_ours(theirs, ours.shape), ours)


def test_every_parameter_of_the_preset_has_its_tensor():
    """Of the published 671 billion, with the module: names and shapes, nothing allocated."""
    from maxllm.config.load import resolve
    from maxllm.config.train import TrainConfig
    from maxllm.convert.tensors import TensorMap
    from maxllm.models import abstract

    config = resolve(TrainConfig, "models/deepseek-v3", ["model.prediction_layers=1"]).config.model
    shapes = {".".join(path): leaf.shape for path, leaf in nnx.to_flat_state(abstract(config)[1])}
    mapping = TensorMap(families.by_name("deepseek_v3").tensors(config), shapes)
    assert mapping.shape("model.layers.60.self_attn.kv_b_proj.weight") == (32768, 512)
    assert mapping.shape("model.layers.61.eh_proj.weight") == (7168, 14336)
    assert sum(np.prod(mapping.shape(name)) for name in mapping.tensors) == sum(map(np.prod, shapes.values()))
