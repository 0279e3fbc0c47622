"""transformers' LlamaForCausalLM on PyTorch: the same questions and answers as ours.py. Runs without maxllm."""

from __future__ import annotations

import json
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

shape = json.loads(sys.argv[1])
compiled = "--compile" in sys.argv
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=shape["vocab"],
    hidden_size=shape["hidden"],
    intermediate_size=shape["intermediate"],
    num_hidden_layers=shape["layers"],
    num_attention_heads=shape["heads"],
    num_key_value_heads=shape["heads"],
    max_position_embeddings=shape["length"],
    tie_word_embeddings=False,
    use_cache=False,
)
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
forward = torch.compile(model) if compiled else model
tokens = torch.randint(0, shape["vocab"], (shape["batch"], shape["length"]))


def step() -> float:
    loss = forward(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


began = time.perf_counter()
step()
about = {
    "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "attention": model.config._attn_implementation,
}
print(json.dumps(about | {"compile": time.perf_counter() - began}), flush=True)
for _ in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    loss = step()
    answer = {"wall": time.perf_counter() - began, "cpu": time.process_time() - busy, "loss": loss}
    print(json.dumps(answer), flush=True)
