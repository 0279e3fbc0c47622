"""Dense decoders' folders: what config.json says in its several dialects, and what is refused. The numbers of every
family are held to transformers' in tests/maxllm/families; here are the settings, and the original Transformer, which
transformers has under another name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import RopeScalingConfig
from maxllm.convert import families, hf, weights
from maxllm.convert.safetensors_io import TensorFolder, entries_of, write_folder
from maxllm.convert.tensors import TensorMap
from maxllm.models import abstract, create
from maxllm.parallel.mesh import single_device_mesh

SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
GPT = dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4)


def config_of(tmp_path: Path, model_type: str, **values: Any) -> ModelConfig:
    shape = GPT if "gpt" in model_type else SHAPE
    (tmp_path / "config.json").write_text(json.dumps(shape | {"model_type": model_type} | values))
    return hf.load_config(tmp_path)


def test_gemmas_gelu_is_the_tanh_approximation_whatever_the_folder_calls_it(tmp_path: Path):
    said = [{}, dict(hidden_act="gelu"), dict(hidden_act="gelu", hidden_activation="gelu_pytorch_tanh")]
    assert {config_of(tmp_path, "gemma", **values).activation for values in said} == {"gelu_tanh"}
    assert config_of(tmp_path, "gemma", hidden_activation="gelu").activation == "gelu"
    assert config_of(tmp_path, "openai-gpt", afn="gelu").activation == "gelu_tanh"
    assert config_of(tmp_path, "gpt2", activation_function="gelu").activation == "gelu"


def test_rotary_scaling_is_read_in_the_words_of_transformers_4_and_5(tmp_path: Path):
    scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    scaling["original_max_position_embeddings"] = 16
    old = config_of(tmp_path, "llama", rope_theta=5e5, rope_scaling=scaling)
    new = config_of(tmp_path, "llama", rope_parameters=scaling | dict(rope_theta=5e5))
    assert old == new
    assert old.rope_scaling == RopeScalingConfig(kind="llama3", factor=8, original_positions=16)
    both = hf.settings_of(old)
    assert both["rope_scaling"]["factor"] == both["rope_parameters"]["factor"] == 8
    with pytest.raises(UserError, match="contradict"):
        config_of(tmp_path, "llama", rope_scaling=scaling, rope_parameters=scaling | dict(factor=4.0))


def test_gemma_3_has_two_rotary_positions_in_either_dialect(tmp_path: Path):
    whole, local = dict(rope_type="linear", factor=8.0, rope_theta=1e6), dict(rope_type="default", rope_theta=5e3)
    old = config_of(
        tmp_path, "gemma3_text", head_dim=8, rope_theta=1e6, rope_local_base_freq=5e3,
        rope_scaling=dict(rope_type="linear", factor=8.0),
    )  # fmt: skip
    new = config_of(
        tmp_path, "gemma3_text", head_dim=8, rope_parameters=dict(full_attention=whole, sliding_attention=local)
    )
    assert old == new
    assert (old.rope_theta, old.rope_local_theta, old.rope_scaling.factor) == (1e6, 5e3, 8)
    assert old.windows == (True,) * 5 + (False,)


def test_gemma_3_that_sees_pictures_gives_its_text_model(tmp_path: Path):
    text = SHAPE | dict(head_dim=8, vocab_size=96)
    config = config_of(tmp_path, "gemma3", text_config=text, vision_config=dict(hidden_size=8))
    assert config == config_of(tmp_path, "gemma3_text", head_dim=8)
    shapes = {".".join(path): leaf.shape for path, leaf in nnx.to_flat_state(abstract(config)[1])}
    mapping, random = TensorMap(families.by_name("gemma3").tensors(config), shapes), np.random.default_rng(0)
    tensors = {name: random.random(mapping.shape(name), np.float32) for name in mapping.tensors}
    write_folder(tmp_path, entries_of(tensors))
    model = hf.load_decoder(tmp_path)
    vision = {"vision_tower.patch.weight": np.ones(3, np.float32), "multi_modal_projector.norm": np.ones(3, np.float32)}
    for prefix, vision_prefix in (("language_model.model.", ""), ("model.language_model.", "model.")):
        renamed = {prefix + name.removeprefix("model."): array for name, array in tensors.items()}
        write_folder(tmp_path, entries_of(renamed | {vision_prefix + n: array for n, array in vision.items()}))
        assert_same(hf.load_decoder(tmp_path), model)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
        ("gpt2", dict(n_head=None), "n_head missing"),
        ("qwen2", dict(use_sliding_window=True, max_window_layers=3), "every nth of them is without one"),
        ("qwen2", dict(dual_chunk_attention_config=dict(chunk_size=8)), "set model.dual_chunk"),
        ("gemma2", dict(use_bidirectional_attention=True), "use_bidirectional_attention is True"),
        ("gemma2", dict(layer_types=["full_attention", "sliding_attention"] * 3), "layer_types full_attention sliding"),
        ("gemma3_text", dict(rope_parameters=dict(sliding_attention=dict(rope_type="linear", factor=2))), "window"),
        ("opt", {}, "an OPT has learned positions"),
        ("phi3", {}, "the nearest is llama, but: query, key and value lie in one tensor"),
        ("mamba", {}, "none is near: layers are state spaces"),
        ("lama", {}, "did you mean llama"),
    ],
)
def test_what_we_do_not_compute_is_refused_in_a_sentence(model_type: str, changes: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as error:
        config_of(tmp_path, model_type, **changes)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_windows_of_all_layers_or_none_are_read(tmp_path: Path):
    assert config_of(tmp_path, "qwen2", use_sliding_window=True, max_window_layers=0, sliding_window=8).window == 8
    assert config_of(tmp_path, "qwen2", use_sliding_window=True, max_window_layers=6, sliding_window=8).window is None
    assert config_of(tmp_path, "qwen2", sliding_window=8).window is None
    assert config_of(tmp_path, "mistral", sliding_window=None).window is None
    assert config_of(tmp_path, "mistral").window == 4096
    caps = config_of(tmp_path, "gemma2", attn_logit_softcapping=None)
    assert (caps.attention_softcap, caps.logits_softcap) == (None, 30.0)


def test_a_setting_that_the_folder_cannot_say_is_not_exported():
    with pytest.raises(UserError, match=r"model.window 8: a llama folder cannot say this"):
        hf.settings_of(ModelConfig(window=8))
    with pytest.raises(UserError, match=r"model.logits_softcap 30.0"):
        hf.settings_of(ModelConfig(family="mistral", logits_softcap=30.0))
    assert hf.settings_of(ModelConfig(family="mistral", window=8))["sliding_window"] == 8


def test_every_family_of_ours_has_one_layout_and_every_model_type_one_family():
    names = [family.name for family in families.FAMILIES]
    types = [name for family in families.FAMILIES for name in family.model_types]
    assert len(set(names)) == len(names) and len(set(types)) == len(types)


def original(**changes: Any) -> ModelConfig:
    return ModelConfig(**dict(
        family="transformer", vocab_size=96, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        num_kv_heads=4, max_positions=64, positions="sinusoidal", norm="layer", norm_placement="post",
        activation="relu", gated=False, biases=("mlp",), embedding_scale=32**0.5, tie_embeddings=True, init_std=0.2,
    ) | changes)  # fmt: skip


ORIGINALS = [
    original(),
    original(tie_embeddings=False, embedding_scale=None, biases=()),
    original(embedding_scale=None, biases=("query_key_value", "output", "mlp")),
]


def exported(config: ModelConfig, folder: Path, dtype: str = "float32") -> nnx.Module:
    folder.mkdir()
    model = create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=1)
    weights.save(model, folder, dtype, 10**9)
    (folder / "config.json").write_text(json.dumps(hf.settings_of(config)))
    return model


def assert_same(one: nnx.Module, other: nnx.Module) -> None:
    first, second = (dict(nnx.to_flat_state(nnx.split(model)[1])) for model in (one, other))
    assert first.keys() == second.keys()
    for path in first:
        assert np.array_equal(np.asarray(first[path].get_value()), np.asarray(second[path].get_value())), path


@pytest.mark.parametrize("config", ORIGINALS, ids=["paper", "untied", "all_biases"])
def test_the_original_transformer_travels_as_an_opt(config: ModelConfig, tmp_path: Path):
    model = exported(config, tmp_path / "model")
    assert hf.load_config(tmp_path / "model") == config
    assert_same(hf.load_decoder(tmp_path / "model"), model)


def test_what_is_computed_may_be_rounded_in_the_folder(tmp_path: Path):
    exported(ORIGINALS[0], tmp_path / "half", "bfloat16")
    hf.load_decoder(tmp_path / "half")


def test_trained_positions_in_its_place_are_refused(tmp_path: Path):
    exported(ORIGINALS[0], tmp_path / "model")
    own = TensorFolder(tmp_path / "model")
    tensors = {name: np.array(own.files[name].read(name)) for name in own}
    tensors["model.decoder.embed_positions.weight"][3] += 1
    write_folder(tmp_path / "model", entries_of(tensors))
    with pytest.raises(UserError, match="embed_positions.weight does not hold the numbers"):
        hf.load_decoder(tmp_path / "model")


PEER = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
assert not any(loading.values()), loading
with torch.no_grad():
    np.save(folder + "/logits.npy", model.eval()(torch.from_numpy(np.load(folder + "/ids.npy"))).logits.numpy())
"""


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.parametrize("config", ORIGINALS, ids=["paper", "untied", "all_biases"])
def test_transformers_computes_the_original_from_its_opt(config: ModelConfig, torch_python: Path, tmp_path: Path):
    model, folder = exported(config, tmp_path / "model"), tmp_path / "model"
    ids = np.random.default_rng(0).integers(0, 96, (2, 40))
    np.save(folder / "ids.npy", ids)
    subprocess.run([torch_python, "-c", PEER, folder], check=True)
    positions = np.broadcast_to(np.arange(40), ids.shape)
    ours = np.asarray(jax.jit(lambda: model(ids.astype(np.int32), positions))())
    np.testing.assert_allclose(ours, np.load(folder / "logits.npy"), atol=1e-4, rtol=0)
