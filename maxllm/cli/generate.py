"""Continue a prompt with a trained model (an encoder-decoder: answer it), streaming to the terminal.

examples:
  maxllm generate runs/demo/train "def fibonacci(n):" --max-tokens 64 --temperature 0
  maxllm generate runs/demo/train/export "The string module" --top-p 0.9 --seed 1 --stop "\\n\\n"
"""

from __future__ import annotations

import argparse
import sys

from maxllm.config.errors import UserError
from maxllm.config.serve import SamplingConfig
from maxllm.generate.handle import Times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = SamplingConfig()
    parser.add_argument("model", metavar="RUN", help="a run directory, a checkpoint, or a Hugging Face folder")
    parser.add_argument(
        "prompt", help="the text to continue (of an encoder-decoder: to read); - reads it from standard input"
    )
    parser.add_argument("--max-tokens", type=int, default=defaults.max_tokens, help="default %(default)s")
    parser.add_argument(
        "--temperature", type=float, default=defaults.temperature, help="0 = greedy; default %(default)s"
    )
    parser.add_argument("--top-k", type=int, default=defaults.top_k, help="0 = all tokens; default %(default)s")
    parser.add_argument("--top-p", type=float, default=defaults.top_p, help="default %(default)s")
    parser.add_argument("--seed", type=int, help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", default=[], help="end before this text; may be given several times")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default %(default)s")


def run(args: argparse.Namespace) -> int:
    from maxllm.config.serve import EngineConfig
    from maxllm.generate.offline import local_scheduler
    from maxllm.generate.prompt import prompt_ids
    from maxllm.generate.request import Request, SamplingParams
    from maxllm.parallel import compilation_cache
    from maxllm.train.checkpoint import load_any

    if args.max_tokens < 1:
        raise UserError(f"--max-tokens is {args.max_tokens}; it must be 1 or more")
    compilation_cache.enable()
    model, tokenizer, _ = load_any(args.model)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    ids = prompt_ids(tokenizer, prompt, model.config)
    sampling = SamplingParams(args.temperature, args.top_k, args.top_p, args.seed)
    # A shell hands over "\n" as two characters; nobody means a backslash by it.
    stop = tuple(text.replace("\\n", "\n").replace("\\t", "\t") for text in args.stop)
    with local_scheduler(model, tokenizer, EngineConfig(slots=1, dtype=args.dtype)) as scheduler:
        handle = scheduler.submit(Request(tuple(ids), args.max_tokens, sampling, stop))
        if model.config.architecture == "decoder":
            sys.stdout.write(prompt)
        for event in handle.events():
            sys.stdout.write(event.text)
            sys.stdout.flush()
        sys.stdout.write("\n")
    if event.error:
        raise RuntimeError(event.error)
    _say_speed(event.finish_reason, event.usage.completion_tokens, handle.times)
    return 0


def _say_speed(reason: str | None, tokens: int, times: Times) -> None:
    seconds = times.finished - times.first_token
    speed = f", {(tokens - 1) / seconds:.0f} tokens/s after the first" if tokens > 1 and seconds > 0 else ""
    first = times.first_token - times.submitted
    print(f"[{tokens} tokens, {reason}; first after {first:.2f} s (compiling included){speed}]", file=sys.stderr)
