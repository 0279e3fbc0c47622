"""transformers' Llama on PyTorch, the twin of ours_step.py; runs without maxllm:

    python torch_step.py CONFIG.json [--compile]

The same shapes and number format, fused AdamW, clipping, and PyTorch's fused attention, causal over the whole row: the
twin does not keep packed documents apart, which costs it nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

config = json.loads(Path(sys.argv[1]).read_text())
model_config, data, compute, optimizer_config = (config[name] for name in ("model", "data", "compute", "optimizer"))
compiled = "--compile" in sys.argv
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
shape = LlamaConfig(
    vocab_size=model_config["vocab_size"],
    hidden_size=model_config["hidden_size"],
    intermediate_size=model_config["intermediate_size"],
    num_hidden_layers=model_config["num_layers"],
    num_attention_heads=model_config["num_heads"],
    num_key_value_heads=model_config["num_kv_heads"],
    head_dim=model_config["head_dim"] or model_config["hidden_size"] // model_config["num_heads"],
    max_position_embeddings=data["sequence_length"],
    tie_word_embeddings=model_config["tie_embeddings"],
    use_cache=False,
    attn_implementation="sdpa",
)
with torch.device(device):
    model = LlamaForCausalLM(shape)
if compute["remat"] == "full":
    model.gradient_checkpointing_enable()
optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=optimizer_config["learning_rate"],
    betas=(optimizer_config["b1"], optimizer_config["b2"]),
    weight_decay=optimizer_config["weight_decay"],
    fused=True,
)
forward = torch.compile(model) if compiled else model
pieces = config["train"]["accumulation_steps"]
rows = data["batch_size"] // pieces
tokens = torch.randint(0, model_config["vocab_size"], (data["batch_size"], data["sequence_length"]), device=device)


def number_format():
    return torch.autocast(device, torch.bfloat16) if compute["dtype"] == "bfloat16" else nullcontext()


def step() -> float:
    total = 0.0
    for piece in tokens.split(rows):
        with number_format():
            loss = forward(input_ids=piece, labels=piece).loss / pieces
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_config["clip_norm"] or float("inf"))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def answer(**said: object) -> None:
    print(json.dumps(said), flush=True)


began = time.perf_counter()
step()
answer(
    versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
    compile=time.perf_counter() - began,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
)
for _ in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    loss = step()
    answer(wall=time.perf_counter() - began, cpu=time.process_time() - busy, loss=loss)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
answer(memory_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else peak)
