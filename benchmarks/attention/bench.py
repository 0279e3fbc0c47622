"""Attention on this machine's CPU: maxllm's beside PyTorch's fused kernel, forward and forward + backward.

    python benchmarks/attention/bench.py --torch-python PATH    # PATH: a Python that has torch; without it, only ours

Prints one line per shape and direction: milliseconds of wall clock and of processor time (all threads), the median of
`--rounds` rounds, ours and PyTorch's in turn, and the ratio PyTorch / ours of each (above 1: ours is faster).
Processor time is what to read on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

SHAPES = {  # batch, length, heads, head_dim
    "demo": (16, 256, 8, 32),
    "100M": (4, 1024, 12, 64),
}
DOCUMENTS = 5  # packed in a row, of unequal lengths
DIRECTIONS = ("forward", "forward+backward")


def cases(shapes: list[str]) -> list[tuple[str, bool, str]]:
    return [(shape, packed, way) for shape in shapes for packed in (False, True) for way in DIRECTIONS]


def bounds(length: int) -> list[int]:
    """Where documents begin, and `length`: the same for both sides."""
    weights = [3, 1, 4, 1, 5][:DOCUMENTS]
    return [length * sum(weights[:i]) // sum(weights) for i in range(DOCUMENTS + 1)]


def timed(run, seconds: float) -> tuple[float, float]:
    """Milliseconds (wall, processor) per call, over at least `seconds` of calls."""
    run()
    wall, processor, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        run()
        calls += 1
    return (time.perf_counter() - wall) / calls * 1e3, (time.process_time() - processor) / calls * 1e3


def ours(shape: str, packed: bool, way: str, backend: str):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from maxllm.kernels.attention import attention

    batch, length, heads, head_dim = SHAPES[shape]
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, cotangent = (jax.random.normal(k, (batch, length, heads, head_dim)) for k in keys)
    begins = bounds(length)
    ids = np.repeat(np.arange(DOCUMENTS), np.diff(begins)).astype(np.int32)
    segment_ids = jnp.broadcast_to(ids, (batch, length)) if packed else None

    def forward(query, key, value, cotangent, segment_ids):
        return attention(query, key, value, segment_ids=segment_ids, backend=backend)

    def both(query, key, value, cotangent, segment_ids):
        pull = jax.vjp(lambda *x: forward(*x, None, segment_ids), query, key, value)[1]
        return pull(cotangent)

    arrays = (query, key, value, cotangent, segment_ids)
    run = jax.jit(forward if way == "forward" else both).lower(*arrays).compile()
    return lambda: jax.block_until_ready(run(*arrays))


def theirs(shape: str, packed: bool, way: str):
    """scaled_dot_product_attention on `[batch, heads, length, head_dim]` as the projection leaves it: a transposed
    view of `[batch, length, heads, head_dim]`. Packed: a boolean mask, which is what transformers hands it."""
    import torch

    batch, length, heads, head_dim = SHAPES[shape]
    torch.manual_seed(0)
    query, key, value = (torch.randn(batch, length, heads, head_dim, requires_grad=True) for _ in range(3))
    cotangent = torch.randn(batch, length, heads, head_dim)
    begins = torch.tensor(bounds(length))
    ids = torch.repeat_interleave(torch.arange(DOCUMENTS), begins.diff())
    mask = ((ids[:, None] == ids) & torch.ones(length, length, dtype=torch.bool).tril()) if packed else None

    def forward():
        views = (x.transpose(1, 2) for x in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(*views, attn_mask=mask, is_causal=not packed)
        return mixed.transpose(1, 2)

    def inference():
        with torch.no_grad():
            forward()

    def both():
        torch.autograd.grad(forward(), (query, key, value), cotangent)

    return inference if way == "forward" else both


def serve(seconds: float) -> None:
    """The PyTorch side: one case a line on stdin, its times on stdout."""
    runs = {}
    for line in sys.stdin:
        case = tuple(json.loads(line))
        if case not in runs:
            runs[case] = theirs(*case)
        print(json.dumps(timed(runs[case], seconds)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.seconds)
    peer = None
    if options.torch_python:
        command = [options.torch_python, __file__, "--serve", "--seconds", str(options.seconds)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    print("| shape | packed | | ours ms (cpu ms) | torch ms (cpu ms) | torch / ours, wall | cpu |\n|" + "---|" * 7)
    for case in cases(options.shapes):
        run = ours(*case, options.backend)
        mine, other = [], []
        for _ in range(options.rounds):
            mine.append(timed(run, options.seconds))
            if peer:
                peer.stdin.write(json.dumps(case) + "\n")
                peer.stdin.flush()
                other.append(json.loads(peer.stdout.readline()))
        row = [case[0], "yes" if case[1] else "no", case[2]]
        wall, processor = (statistics.median(x) for x in zip(*mine, strict=True))
        row.append(f"{wall:.1f} ({processor:.1f})")
        if peer:
            there = [statistics.median(x) for x in zip(*other, strict=True)]
            row += [f"{there[0]:.1f} ({there[1]:.1f})", f"{there[0] / wall:.2f}", f"{there[1] / processor:.2f}"]
        print("| " + " | ".join(row) + " |", flush=True)
    if peer:
        peer.stdin.close()
        peer.wait()


if __name__ == "__main__":
    main()
