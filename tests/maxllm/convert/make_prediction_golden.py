"""Makes `golden/deepseek_v3_prediction` with PyTorch and transformers, once; the test suite needs neither.

    /some/where/bin/python tests/maxllm/convert/make_prediction_golden.py

`module.safetensors` is one further predicting module for the tiny model of tests/maxllm/families/golden/deepseek_v3,
named as deepseek-ai/DeepSeek-V3 has it, behind the last layer. `expected.npz`: what transformers' MtpModel computes of
the two together:

    tokens       int64 `[batch, length]`
    logits       fp32 `[batch, length, vocab]` of the model itself
    prediction   fp32 `[batch, length - 1, vocab]` of the module: at place i, of the token i + 2
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import MtpModel

HERE = Path(__file__).parent
BASE, FOLDER = HERE.parent / "families" / "golden" / "deepseek_v3", HERE / "golden" / "deepseek_v3_prediction"


def main() -> None:
    config = json.loads((BASE / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    hidden, last = config["hidden_size"], config["num_hidden_layers"]
    tensors = load_file(BASE / "model.safetensors")
    layer = f"model.layers.{last - 1}."
    shapes = {name.removeprefix(layer): tensor.shape for name, tensor in tensors.items() if name.startswith(layer)}
    shapes |= {name: (hidden,) for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")}
    shapes |= {"eh_proj.weight": (hidden, 2 * hidden)}
    generator = torch.Generator().manual_seed(0)
    module = {}
    for name, shape in shapes.items():
        around = 1.0 if "norm" in name else 0.0
        module[f"model.layers.{last}.{name}"] = around + 0.2 * torch.randn(shape, generator=generator)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(module, FOLDER / "module.safetensors", metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors | module, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps(config))
        arrays = computed(folder, config, generator)
    np.savez_compressed(FOLDER / "expected.npz", **{name: array.numpy() for name, array in arrays.items()})
    print(sum(path.stat().st_size for path in FOLDER.iterdir()), "bytes")


@torch.no_grad()
def computed(folder: str, config: dict, generator: torch.Generator) -> dict[str, torch.Tensor]:
    plain = dict(dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    model = hf.DeepseekV3ForCausalLM.from_pretrained(folder, **plain).eval()
    # transformers knows the module as layer 61 alone.
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config['num_hidden_layers']}.*"]
    module = MtpModel.from_pretrained(model).eval().layers[0]
    tokens = torch.randint(5, config["vocab_size"], (2, 14), generator=generator)
    found = model(tokens, output_hidden_states=True)
    x, places = found.hidden_states[-1], torch.arange(1, tokens.shape[1])[None]
    mask = torch.full((places.shape[1],) * 2, float("-inf")).triu(1)[None, None]
    turns = model.model.rotary_emb(x, places)
    x = module(model.model.embed_tokens(tokens[:, 1:]), x[:, :-1], turns, mask, places, None)
    return dict(tokens=tokens, logits=found.logits, prediction=model.lm_head(x))


if __name__ == "__main__":
    main()
