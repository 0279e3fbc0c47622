"""Serving against transformers.generate: the same weights, prompts and threads, in tokens per second.

    python benchmarks/serving/bench.py                                  # random weights, writes RESULTS.md
    python benchmarks/serving/bench.py --model runs/demo/train/export   # an exported run
    python benchmarks/serving/bench.py --tokens 32 --repeats 1 --results first-look.md

Ours answers as N requests to one scheduler with 32 slots; the peer gets them as one batch of equal lengths, which is
the best case for it. A last row is nearer to life: twice as many requests as slots, of 1/8 to all of --tokens, which
the peer answers batch by batch. Questions alternate between the two, so that a busy neighbour slows both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

PEER = ("torch==2.13.0", "transformers>=5")
SHAPES = {  # hidden, intermediate, layers, heads
    "7M": (256, 704, 6, 8),
    "90M": (768, 2048, 12, 12),
}


def make_environment(folder: Path) -> Path:
    """PyTorch and transformers in an environment of their own."""
    python = folder / "peer" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
    for package in PEER:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return python


def make_model(folder: Path, shape: str, vocab_size: int = 4096) -> Path:
    """Random weights of a shape, and a tokenizer of this repository's sources, as a Hugging Face folder."""
    import io

    import sentencepiece
    from flax import nnx

    from maxllm.config.model import ModelConfig
    from maxllm.convert import hf
    from maxllm.models import Decoder
    from maxllm.tokenizer import Tokenizer

    writer = io.BytesIO()
    lines = (line for path in sorted(REPOSITORY.glob("maxllm/**/*.py")) for line in path.read_text().splitlines())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=writer,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokenizer = Tokenizer({"tokenizer.model": writer.getvalue()})
    hidden, intermediate, layers, heads = SHAPES[shape]
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=1024,
        init_std=0.1,  # logits far apart: the two programs' rounding does not decide between tokens
    )
    hf.save(Decoder(config, rngs=nnx.Rngs(0)), tokenizer, folder / "model")
    return folder / "model"


class Peer:
    def __init__(self, python: Path, model: Path) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        command = [str(python), str(HERE / "peer_transformers.py"), str(model)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = json.loads(self._line())

    def ask(self, prompts: list[list[int]], lengths: list[int], batch: int) -> dict[str, Any]:
        """In batches of `batch`, each until its longest answer is done."""
        seconds, tokens = 0.0, []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            answer = self._ask({"prompts": prompts[part], "max_tokens": max(lengths[part])})
            seconds += answer["seconds"]
            tokens += [row[:length] for row, length in zip(answer["tokens"], lengths[part], strict=True)]
        return {"seconds": seconds, "tokens": tokens}

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended without an answer; its message is above")
        return line


def measure(ours: Any, peer: Peer, prompts: list[list[int]], lengths: list[int], repeats: int) -> dict[str, Any]:
    """Medians over `repeats` alternations, after one that is not counted."""
    rows = []
    batch = ours.engine.max_concurrent_decodes
    calls = ours.record(prompts, lengths)
    for _ in range(repeats + 1):
        mine, theirs = ours.ask(prompts, lengths), peer.ask(prompts, lengths, batch)
        rows.append((mine, theirs, ours.replay(calls)))
    same = sum(a == b for a, b in zip(rows[0][0]["tokens"], rows[0][1]["tokens"], strict=True))
    rows = rows[1:]
    total = sum(lengths)
    ours_speed = statistics.median(total / mine["seconds"] for mine, _, _ in rows)
    peer_speed = statistics.median(total / theirs["seconds"] for _, theirs, _ in rows)
    return {
        "requests": len(prompts),
        "ours": ours_speed,
        "peer": peer_speed,
        "ratio": statistics.median(theirs["seconds"] / mine["seconds"] for mine, theirs, _ in rows),
        "outside": statistics.median(1 - replay / mine["seconds"] for mine, _, replay in rows),
        "host": statistics.median(mine["host"] / mine["busy"] for mine, _, _ in rows),
        "same": same,
    }


def render(rows: list[dict[str, Any]], heading: dict[str, str]) -> str:
    lines = ["# Serving: tokens per second against transformers.generate", ""]
    lines += [f"- {name}: {value}" for name, value in heading.items()]
    lines += [
        "",
        "| requests at once | ours, tokens/s | transformers, tokens/s | ratio | outside the compiled functions "
        "| engine thread not waiting | same tokens |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['requests']} | {row['ours']:.0f} | {row['peer']:.0f} | {row['ratio']:.2f} "
            f"| {row['outside']:.1%} | {row['host']:.1%} | {row['same']}/{row['requests']} |"
        )
    lines += [
        "",
        "Wall time from the first submission to the last token, prefill included; medians. Ratio: of the pairs run one",
        "after the other. Outside the compiled functions: 1 - (the same calls replayed with nobody looking at the",
        "tokens) / (the scheduler's wall time). Engine thread not waiting: its share of work that hides behind the",
        "device's. Same tokens: greedy answers identical to the peer's, token for token, float32. Last row: answers of",
        "1/8 to all of that length, twice as many as there are slots, which the peer answers batch by batch.",
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else []) if "model name" in line]
    model = names[0].split(":", 1)[1].strip() if names else platform.machine()
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; random weights when absent")
    parser.add_argument("--shape", choices=SHAPES, default="7M", help="of the random weights; default %(default)s")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=64, help="tokens; default %(default)s")
    parser.add_argument("--tokens", type=int, default=128, help="drawn per request; default %(default)s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", type=Path, help="of an environment that has transformers; made when absent")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()

    import jax
    import numpy as np
    from ours import Ours

    from maxllm.train.checkpoint import load_any

    with tempfile.TemporaryDirectory(prefix="maxllm-serving-") as name:
        folder = Path(name)
        python = args.peer_python or make_environment(folder)
        path = args.model or make_model(folder, args.shape)
        model, tokenizer, config = load_any(path)
        ours = Ours(model, tokenizer, slots=max(args.requests), max_length=min(512, config.max_positions))
        peer = Peer(python, path)
        draw = np.random.default_rng(0)
        rows = []
        mixed = 2 * max(args.requests)
        for count in (*args.requests, mixed):
            prompts = draw.integers(3, config.vocab_size, (count, args.prompt)).tolist()
            lengths = [args.tokens] * count
            if count == mixed:
                lengths = draw.integers(args.tokens // 8, args.tokens, count, endpoint=True).tolist()
            rows.append(measure(ours, peer, prompts, lengths, args.repeats))
            print({key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
        peer.close()
        ours.scheduler.close()
    heading = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "command": "python benchmarks/serving/bench.py " + " ".join(a for a in sys.argv[1:] if "python" not in a),
        "model": f"{args.model or 'random weights'}: {config.num_layers} layers of {config.hidden_size}, "
        f"vocabulary {config.vocab_size}, float32",
        "question": f"{args.prompt} prompt tokens, {args.tokens} drawn greedily, {args.repeats} repeats",
        "ours": f"jax {jax.__version__}, {max(args.requests)} slots of {ours.engine.max_length}, "
        f"compiled ahead in {ours.warm_up_seconds:.0f} s",
        "peer": f"{peer.about['versions']}, attention {peer.about['attention']}",
    }
    args.results.write_text(render(rows, heading))
    print(f"wrote {args.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
