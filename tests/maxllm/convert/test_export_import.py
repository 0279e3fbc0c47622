"""`maxllm export` and `maxllm import`: a run and a Hugging Face folder, each from the other."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from data_beam.tokenizer_training import train_tokenizer
from maxllm.cli.import_ import import_folder
from maxllm.cli.main import main
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.tokenize import TokenizerConfig
from maxllm.convert import hf
from maxllm.models import Decoder, create
from maxllm.parallel.mesh import single_device_mesh
from maxllm.tokenizer import Tokenizer
from maxllm.train.checkpoint import load_any, load_model

TEXT = Path(__file__).read_text()
SAMPLES = ["def f(x):\n    return  x + 1\n", "naïve café ① ﬁ 👩‍🚀 \t end", "<s> is text </s>", "", " leading", "12345"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({"tokenizer.model": train_tokenizer([TEXT], TokenizerConfig(vocab_size=380))})


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    config = ModelConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        max_positions=64,
        tie_embeddings=request.param,
        init_std=0.2,
    )
    assert tokenizer.vocab_size <= config.vocab_size
    return create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=3)


def parameters(model: Decoder) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(nnx.split(model)[1])
    }


def assert_same(one: Decoder, other: Decoder) -> None:
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and ours[name].tobytes() == theirs[name].tobytes(), name


def test_folder_to_run_to_folder_keeps_every_bit(model: Decoder, tokenizer: Tokenizer, tmp_path: Path):
    first, run, second = tmp_path / "first", tmp_path / "run", tmp_path / "second"
    hf.save(model, tokenizer, first)
    assert main(["import", str(first), str(run)]) == 0
    loaded, its_tokenizer, config = load_model(run)
    assert_same(loaded, model)
    assert config == model.config
    assert its_tokenizer.fingerprint == tokenizer.fingerprint
    assert main(["export", str(run), str(second)]) == 0
    for name in sorted(path.name for path in first.iterdir()):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert {path.name for path in first.iterdir()} >= {"config.json", "generation_config.json", "tokenizer.json"}


def test_bfloat16_export_loads_as_the_rounded_model(model: Decoder, tokenizer: Tokenizer, tmp_path: Path):
    hf.save(model, tokenizer, tmp_path / "half", dtype="bfloat16")
    loaded, _, _ = load_any(tmp_path / "half")
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), parameters(model))
    assert all(np.array_equal(rounded[name], array) for name, array in parameters(loaded).items())
    half, _, _ = load_any(tmp_path / "half", dtype="bfloat16")
    assert {array.dtype.name for array in parameters(half).values()} == {"bfloat16"}


def test_the_exported_tokenizer_gives_the_same_ids(model: Decoder, tokenizer: Tokenizer, tmp_path: Path):
    import tokenizers

    hf.save(model, tokenizer, tmp_path / "model")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for text in [*SAMPLES, TEXT]:
        assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_nothing_is_half_written(model: Decoder, tokenizer: Tokenizer, tmp_path: Path):
    folder, run = tmp_path / "model", tmp_path / "run"
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "left-by-a-kill").write_text("x")
    hf.save(model, tokenizer, folder)
    assert not (folder / "left-by-a-kill").exists()
    with pytest.raises(UserError, match="exists already"):
        hf.save(model, tokenizer, folder)
    hf.save(model, tokenizer, folder, overwrite=True)
    (folder / "tokenizer.json").rename(tmp_path / "aside.json")
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        import_folder(folder, run)
    (tmp_path / "aside.json").rename(folder / "tokenizer.json")
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match="truncated"):
        import_folder(folder, run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    run.mkdir()
    (run / "precious").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        import_folder(folder, run)
    with pytest.raises(UserError, match="no Hugging Face folder"):
        hf.save(model, tokenizer, run, overwrite=True)


def test_a_tokenizer_of_another_model_is_refused(model: Decoder, tokenizer: Tokenizer, tmp_path: Path):
    hf.save(model, tokenizer, tmp_path / "model")
    other = Tokenizer({"tokenizer.model": train_tokenizer([TEXT * 3], TokenizerConfig(vocab_size=500))})
    other.save_huggingface(tmp_path / "model")
    with pytest.raises(UserError, match="do not belong together"):
        hf.load(tmp_path / "model")


def test_the_verbs_print_one_sentence_and_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["import", str(tmp_path / "nothing"), str(tmp_path / "run")]) == 2
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2 and all(line.startswith("maxllm ") for line in errors)


PEER = """
import json, sys, numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, samples = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = np.load(folder + "/../ids.npy")
with torch.no_grad():
    np.save(folder + "/../logits.npy", model(torch.from_numpy(ids)).logits.numpy())
    said = model.generate(torch.from_numpy(ids[:1, :8]), max_new_tokens=8, do_sample=False)[0].tolist()
tokens = [tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids for text in samples]
decoded = [tokenizer.decode(ids) for ids in tokens]
special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
json.dump([tokens, decoded, special, said], open(folder + "/../peer.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_loads_the_export(
    model: Decoder, tokenizer: Tokenizer, torch_python: Path, dtype: str, tmp_path: Path
):
    folder = tmp_path / "export"
    shard = 30_000 if dtype == "float32" else 10**9
    hf.save(model, tokenizer, folder, dtype=dtype, max_shard_bytes=shard)
    exported, _, _ = hf.load(folder)
    ids = np.random.default_rng(0).integers(0, 384, (2, 48))
    np.save(tmp_path / "ids.npy", ids)
    samples = [*SAMPLES, TEXT]
    subprocess.run([torch_python, "-c", PEER, folder, json.dumps(samples)], check=True)
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    ours = np.asarray(exported(ids.astype(np.int32), positions))
    np.testing.assert_allclose(ours, np.load(tmp_path / "logits.npy"), atol=1e-4, rtol=0)
    tokens, decoded, special, said = json.loads((tmp_path / "peer.json").read_text())
    assert tokens == [tokenizer.encode(text) for text in samples]
    assert decoded == samples
    assert special == [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    greedy = ids[0, :8].tolist()
    while len(greedy) < len(said):
        row = np.array([greedy], np.int32)
        greedy.append(int(exported(row, np.arange(len(greedy))[None])[0, -1].argmax()))
    assert greedy == said
