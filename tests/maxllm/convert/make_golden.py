"""Makes the golden Llama folders beside this file with PyTorch and transformers, once; the test suite needs neither.

    python -m venv /some/where && /some/where/bin/pip install torch transformers
    /some/where/bin/python tests/maxllm/convert/make_golden.py

Each folder of `golden/` is what `save_pretrained` writes for a tiny random model (config.json, safetensors), and
`expected.npz`: `input_ids` int64 `[batch, length]` and the fp32 `logits` `[batch, length, vocab]` transformers gives.
Norm weights are random too, so that a mapping which forgets them cannot pass.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

GOLDEN = Path(__file__).parent / "golden"
SHAPE = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, rms_norm_eps=1e-5,
    max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=3,
)  # fmt: skip
VARIANTS = {
    # name: (what differs from SHAPE, dtype on disk, largest shard)
    "untied_gqa": (dict(num_key_value_heads=2, tie_word_embeddings=False), torch.float32, "50GB"),
    "tied_mha": (dict(num_key_value_heads=4, tie_word_embeddings=True), torch.float32, "50GB"),
    "rope_500k_wide_heads": (
        dict(num_key_value_heads=1, head_dim=16, rope_theta=500000.0, rms_norm_eps=1e-6, tie_word_embeddings=False),
        torch.float32,
        "50GB",
    ),
    "sharded_bfloat16": (dict(num_key_value_heads=2, tie_word_embeddings=False), torch.bfloat16, "20KB"),
}


def randomise(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.2 * noise if "norm" in name else 0.2 * noise)


def main() -> None:
    for seed, (name, (changes, dtype, shard)) in enumerate(VARIANTS.items()):
        generator = torch.Generator().manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE | changes, attn_implementation="eager"))
        randomise(model, generator)
        model.to(dtype).save_pretrained(GOLDEN / name, max_shard_size=shard)
        # Loaded afresh, not converted back: rotary frequencies that went through bfloat16 would stay rounded.
        model = LlamaForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32, attn_implementation="eager").eval()
        input_ids = torch.randint(0, SHAPE["vocab_size"], (2, 40), generator=generator)
        with torch.no_grad():
            logits = model(input_ids).logits
        np.savez_compressed(GOLDEN / name / "expected.npz", input_ids=input_ids.numpy(), logits=logits.numpy())
        print(f"{name}: logits {tuple(logits.shape)}, standard deviation {logits.std():.3f}")


if __name__ == "__main__":
    main()
