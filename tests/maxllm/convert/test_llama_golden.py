"""Hugging Face Llama folders against what PyTorch and transformers computed from them (see make_golden.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.convert import hf, weights
from maxllm.convert.safetensors_io import TensorFolder, entries_of, write_folder
from maxllm.parallel.mesh import make_mesh

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))


def logits_of(folder: Path, **options) -> tuple[np.ndarray, np.ndarray]:
    expected = np.load(folder / "expected.npz")
    tokens = expected["input_ids"].astype(np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    decoder = hf.load_decoder(folder, **options)
    return np.asarray(jax.jit(lambda: decoder(tokens, positions))()), expected["logits"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a golden folder, to be broken."""
    return Path(shutil.copytree(GOLDEN / "untied_gqa", tmp_path / "model"))


def edit(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str):
    ours, theirs = logits_of(GOLDEN / variant)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_logits_in_bfloat16_stay_near():
    ours, theirs = logits_of(GOLDEN / "sharded_bfloat16", dtype="bfloat16")
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.03


def test_loaded_onto_a_mesh_gives_the_same_logits():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        ours, theirs = logits_of(GOLDEN / "untied_gqa", mesh=mesh)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_transformers_4_config_means_the_same(folder: Path):
    shutil.copytree(GOLDEN / "rope_500k_wide_heads", folder, dirs_exist_ok=True)
    edit(folder, rope_parameters=None, rope_theta=500000.0, dtype=None, torch_dtype="float32")
    assert hf.load_config(folder) == hf.load_config(GOLDEN / "rope_500k_wide_heads")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", [5_000_000_000, 20_000])
def test_weights_round_trip_bit_exact(variant: str, shard: int, tmp_path: Path):
    decoder = hf.load_decoder(GOLDEN / variant)
    dtype = "bfloat16" if "bfloat16" in variant else "float32"
    weights.save(decoder, tmp_path, dtype, shard)
    before, after = TensorFolder(GOLDEN / variant), TensorFolder(tmp_path)
    assert set(before) == set(after)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == 20_000)
    for name in before:
        one, other = (folder.files[name].read(name) for folder in (before, after))
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes(), name


def test_the_package_reads_what_we_write(tmp_path: Path):
    from safetensors.numpy import load_file

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.zeros((0, 2), np.float16)}
    write_folder(tmp_path, entries_of(arrays))
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    assert all(np.array_equal(TensorFolder(tmp_path).read(n, a.shape), a) for n, a in arrays.items())


def test_a_tied_head_written_twice_is_accepted_and_a_different_one_refused(tmp_path: Path):
    source = TensorFolder(GOLDEN / "tied_mha")
    tensors = {name: source.files[name].read(name) for name in source}
    shutil.copy(GOLDEN / "tied_mha" / "config.json", tmp_path)
    head = tensors["model.embed_tokens.weight"]
    write_folder(tmp_path, entries_of({**tensors, "lm_head.weight": head}))
    hf.load_decoder(tmp_path)
    write_folder(tmp_path, entries_of({**tensors, "lm_head.weight": head + 1}))
    with pytest.raises(UserError, match="lm_head.weight differs"):
        hf.load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="mamba"), "model_type 'mamba' is not supported"),
        (dict(model_type=None), "model_type None is not supported"),
        (dict(num_hidden_layers=None), "num_hidden_layers missing"),
        (dict(num_hidden_layers=3), "no tensor model.layers.2"),
        (dict(num_hidden_layers=1), "model.layers.1"),
        (dict(intermediate_size=64), r"shape \[48, 32\], where config.json calls for \[64, 32\]"),
        (dict(num_key_value_heads=3), "num_heads 4 is not divisible by num_kv_heads 3"),
        (dict(vocab_size="many"), "vocab_size"),
        (dict(attention_bias=True), "no tensor model.layers.0.self_attn.q_proj.bias"),
        (dict(hidden_act="mish"), "hidden_act 'mish'"),
        (dict(quantization_config={"bits": 4}), "quantized"),
        (dict(rope_scaling={"rope_type": "longrope", "factor": 8.0}), "of type 'longrope'"),
        (dict(rope_scaling={"type": "linear", "factor": 2.0, "turns": 3}), "turns 3"),
        (dict(rope_scaling={"type": "linear", "factor": 0.5}), "rope_scaling.factor|factor: "),
        (dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
        (dict(rope_theta=5e5), "which is meant"),
    ],
)
def test_a_config_we_cannot_compute_is_refused_in_one_sentence(folder: Path, changes: dict, message: str):
    edit(folder, **changes)
    with pytest.raises(UserError, match=message) as error:
        hf.load_decoder(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_broken_files_are_refused_in_one_sentence(folder: Path):
    whole = (folder / "model.safetensors").read_bytes()
    for broken, message in [
        (whole[:-10], "truncated"),
        (whole[:100], "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
        (b"\xff" * 64, "not a whole safetensors file"),
    ]:
        (folder / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match=message):
            hf.load_decoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither model.safetensors nor"):
        hf.load_decoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        hf.load_decoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        hf.load_decoder(folder)


def test_a_missing_shard_is_named(tmp_path: Path):
    folder = Path(shutil.copytree(GOLDEN / "sharded_bfloat16", tmp_path / "model"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors is missing"):
        hf.load_decoder(folder)


def test_an_index_that_points_outside_the_folder_is_refused(tmp_path: Path):
    folder = Path(shutil.copytree(GOLDEN / "sharded_bfloat16", tmp_path / "model"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not a file of this folder"):
        hf.load_decoder(folder)
