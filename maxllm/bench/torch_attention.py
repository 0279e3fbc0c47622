"""PyTorch's fused attention, forward and backward, the twin of ours_attention.py: python torch_attention.py CONFIG.json

Causal over the whole row: it does not keep packed documents apart.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

config = json.loads(Path(sys.argv[1]).read_text())
model, data = config["model"], config["data"]
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = getattr(torch, config["compute"]["dtype"])
rows = data["batch_size"] // config["train"]["accumulation_steps"]
head_dim = model["head_dim"] or model["hidden_size"] // model["num_heads"]


def made(heads: int) -> torch.Tensor:
    shape = (rows, data["sequence_length"], heads, head_dim)
    return torch.randn(shape, device=device, dtype=dtype).requires_grad_()


query, key, value = made(model["num_heads"]), made(model["num_kv_heads"]), made(model["num_kv_heads"])
cotangent = torch.randn_like(query)


def repeat() -> None:
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    mixed = scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=query.shape[2] != key.shape[2])
    torch.autograd.grad(mixed.transpose(1, 2), (query, key, value), cotangent)
    if device == "cuda":
        torch.cuda.synchronize()


def answer(**said: object) -> None:
    print(json.dumps(said), flush=True)


began = time.perf_counter()
repeat()
answer(versions=f"torch {torch.__version__}", compile=time.perf_counter() - began)
for _ in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    repeat()
    answer(wall=time.perf_counter() - began, cpu=time.process_time() - busy)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
answer(memory_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else peak)
