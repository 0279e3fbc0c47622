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
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # as ignore_eos: every answer has its full length
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps({"versions": versions, "attention": model.config._attn_implementation}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        prompts = torch.tensor(question["prompts"])
        started = time.perf_counter()
        with torch.inference_mode():
            tokens = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                max_new_tokens=question["max_tokens"],
                pad_token_id=0,
            )
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "tokens": tokens[:, prompts.shape[1] :].tolist()}), flush=True)


if __name__ == "__main__":
    main()
