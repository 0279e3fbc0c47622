"""Answers the benchmark's questions with `transformers.generate`; runs in an environment of its own.

python peer_transformers.py FOLDER     then one JSON line per question on standard input, one per answer on output
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import transformers


def main() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # as ignore_eos: every answer has its full length
    threads = fastest_threads(model)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {threads} threads"
    print(json.dumps({"versions": versions, "attention": model.config._attn_implementation}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        started = time.perf_counter()
        tokens = answer(model, question["prompts"], question["max_tokens"])
        print(json.dumps({"seconds": time.perf_counter() - started, "tokens": tokens}), flush=True)


def answer(model: transformers.PreTrainedModel, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    tokens = torch.tensor(prompts)
    with torch.inference_mode():
        all_tokens = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=0,
        )
    return all_tokens[:, tokens.shape[1] :].tolist()


def fastest_threads(model: transformers.PreTrainedModel) -> int:
    """PyTorch's threads wait for one another: on a busy machine fewer may be faster. The peer gets its best."""
    seconds = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        answer(model, [[1] * 32] * 8, 4)
        started = time.perf_counter()
        answer(model, [[1] * 32] * 8, 16)
        seconds[threads] = time.perf_counter() - started
    torch.set_num_threads(best := min(seconds, key=seconds.__getitem__))
    return best


if __name__ == "__main__":
    main()
