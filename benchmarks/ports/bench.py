"""What the ports cost: tokens per second of N streams over gRPC and over HTTP, beside the scheduler alone.

    python benchmarks/ports/bench.py                                 # random weights, writes RESULTS.md
    python benchmarks/ports/bench.py --model runs/demo/export --tokens 64 --repeats 1

One server; the clients are a process of their own on the same machine, so that their work is in the numbers too.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(HERE.parent / "serving"), str(REPOSITORY)]

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]


def direct(gateway, requests: int, tokens: int) -> float:
    from maxllm.generate.request import Request, SamplingParams

    request = Request(tuple(PROMPT), tokens, SamplingParams(temperature=0), ignore_eos=True)
    started = time.perf_counter()
    for handle in [gateway.scheduler.submit(request) for _ in range(requests)]:
        assert len(handle.result().token_ids) == tokens
    return time.perf_counter() - started


def client(protocol: str, port: int, requests: int, tokens: int) -> float:
    command = [sys.executable, str(HERE / "client.py"), protocol, str(port), str(requests), str(tokens)]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run([*command, json.dumps(PROMPT)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a run or a Hugging Face folder; random weights when absent")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()

    from bench import machine, make_model  # the engine's benchmark: the same weights

    from maxllm.config.serve import EngineConfig, PortsConfig, SchedulerConfig, ServeConfig
    from serving.server import main as server_main

    with tempfile.TemporaryDirectory(prefix="maxllm-ports-") as folder:
        model = args.model or make_model(Path(folder), "7M")
        slots = max(args.requests)
        engine = EngineConfig(slots=slots, max_length=512, prefill_buckets=[64])
        gateway = server_main.load(ServeConfig(model=str(model), engine=engine, scheduler=SchedulerConfig(queue=slots)))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def started():
        server = server_main.Server(gateway, PortsConfig(grpc=0, http=0))
        await server.start()
        return server

    server = asyncio.run_coroutine_threadsafe(started(), loop).result()
    ways = {
        "scheduler alone": lambda n: direct(gateway, n, args.tokens),
        "gRPC": lambda n: client("grpc", server.grpc_port, n, args.tokens),
        "HTTP": lambda n: client("http", server.http_port, n, args.tokens),
    }
    lines = [
        "# What the ports cost: tokens per second of N greedy streams",
        "",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {machine()}, the clients' process included",
        f"- command: python benchmarks/ports/bench.py {' '.join(sys.argv[1:])}".rstrip(),
        f"- model: {args.model or 'random weights, 7M parameters'}; {args.tokens} tokens each; "
        f"medians of {args.repeats}, the three taken in turn",
        "",
        "| streams | " + " | ".join(ways) + " |",
        "|--:|" + "--:|" * len(ways),
    ]
    for requests in args.requests:
        rows = [{way: run(requests) for way, run in ways.items()} for _ in range(args.repeats + 1)][1:]
        speeds = [requests * args.tokens / statistics.median(row[way] for row in rows) for way in ways]
        shares = [
            f"{speed:.0f}" + (f" ({speed / speeds[0]:.0%})" if index else "") for index, speed in enumerate(speeds)
        ]
        lines.append(f"| {requests} | " + " | ".join(shares) + " |")
        print(lines[-1], flush=True)
    args.results.write_text("\n".join(lines) + "\n")
    asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
    return 0


if __name__ == "__main__":
    sys.exit(main())
