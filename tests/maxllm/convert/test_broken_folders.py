"""What is wrong with a folder is said in one sentence, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_beam.tokenizer_training import train_tokenizer
from maxllm.cli.import_ import import_folder
from maxllm.cli.main import main
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.tokenize import TokenizerConfig
from maxllm.convert import hf
from maxllm.convert.safetensors_io import INDEX, TensorFolder, entries_of, write_folder
from maxllm.models import create
from maxllm.parallel.mesh import single_device_mesh
from maxllm.tokenizer import Tokenizer
from maxllm.train.checkpoint import load_model

SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 in three shards. Its embedding has more rows than the tokenizer has tokens, as many published ones."""
    config = ModelConfig(
        family="gpt2", vocab_size=384, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=2,
        max_positions=32, positions="learned", norm="layer", activation="gelu_tanh", gated=False,
        biases=("query_key_value", "output", "mlp"), tie_embeddings=True,
    )  # fmt: skip
    text = Path(__file__).read_text()
    tokenizer = Tokenizer({"tokenizer.model": train_tokenizer([text], TokenizerConfig(vocab_size=380))})
    folder = tmp_path_factory.mktemp("whole") / "model"
    model = create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)
    hf.save(model, tokenizer, folder, max_shard_bytes=12_000)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert (folder / SECOND).exists() and len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """The same folder as one file, with its tensors changed."""
    own = TensorFolder(folder)
    tensors = {name: np.array(own.files[name].read(name)) for name in own}
    change(tensors)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    write_folder(folder, entries_of(tensors))


def edit(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def truncate(folder: Path) -> None:
    with open(folder / SECOND, "r+b") as file:
        file.truncate((folder / SECOND).stat().st_size - 8)


def rename_dtype(dtype: str) -> Callable[[Path], None]:
    """The same bytes, called another dtype."""

    def change(folder: Path) -> None:
        rewrite(folder, lambda tensors: None)
        data = (folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = data[8 : 8 + length].replace(b'"F32"', f'"{dtype}"'.encode().ljust(5))
        (folder / "model.safetensors").write_bytes(data[:8] + header + data[8 + length :])

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a truncated shard": (truncate, f"{SECOND} is truncated"),
    "a missing shard": (lambda folder: (folder / SECOND).unlink(), f"{SECOND} is missing"),
    "a missing index": (lambda folder: (folder / INDEX).unlink(), f"no {INDEX} that says"),
    "an extra tensor": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update(extra=np.zeros(2, np.float32))),
        "holds transformer.extra, which a gpt2 of this config.json does not have",
    ),
    "a tensor too few": (
        lambda folder: rewrite(folder, lambda tensors: tensors.pop("transformer.h.1.ln_1.bias")),
        "has no tensor transformer.h.1.ln_1.bias",
    ),
    "integers": (rename_dtype("I32"), "has dtype I32; only F64, F32, F16, BF16 can be imported"),
    "a dtype of another size": (rename_dtype("F64"), "does not match its bytes"),
    "an unknown architecture": (lambda folder: edit(folder, model_type="gpt_neox"), "the nearest is gpt2, but"),
    "a config of another model": (lambda folder: edit(folder, n_embd=32, n_head=2), r"has shape \[384, 16\]"),
    "another number of layers": (lambda folder: edit(folder, n_layer=1), "and 11 other tensors"),
    "a width in words": (lambda folder: edit(folder, n_embd="wide"), "hidden_size: Input should be a valid int"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer.*")],
        "no tokenizer among its files; give a folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence_and_leaves_nothing(name: str, folder: Path, tmp_path: Path):
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        import_folder(folder, tmp_path / "run")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_read_as_they_are(dtype: str, folder: Path):
    before = TensorFolder(folder).read("transformer.h.1.mlp.c_fc.weight", (16, 32)).astype(dtype)
    rewrite(folder, lambda tensors: tensors.update({name: array.astype(dtype) for name, array in tensors.items()}))
    loaded = hf.load_decoder(folder).layers.mlp.up.kernel[...][1]
    assert np.array_equal(np.asarray(loaded), before.astype(np.float32))


def test_nan_in_weights_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rewrite(folder, lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"].__setitem__((0, 0), np.nan))
    assert main(["import", str(folder), str(tmp_path / "run")]) == 0
    assert "warning: layers.mlp.up.kernel of" in capsys.readouterr().out


def test_the_tokenizer_and_its_chat_template_travel(folder: Path, tmp_path: Path):
    assert main(["import", str(folder), str(tmp_path / "run")]) == 0
    _, tokenizer, config = load_model(tmp_path / "run")
    assert tokenizer.vocab_size < config.vocab_size
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}]) == "hello"
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    for path in folder.iterdir():
        if "token" in path.name or "chat" in path.name:
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
