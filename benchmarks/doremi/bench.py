"""DoReMi at toy size on four domains of real text: what weights it finds, and what a model trained on them gains.

    python benchmarks/doremi/bench.py --corpus FOLDER            # writes RESULTS.md

For each seed one recipe: a reference on the uniform mixture, and for each step size eta a proxy and a main model on the
mixture that the proxy wrote, all of one shape and for as many steps. The reference is also what the main models are
compared with: it is the model trained on the uniform mixture. Then each one's loss on held-out rows of each domain.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

import corpus

HERE = Path(__file__).parent
DOMAINS = ("abstracts", "books", "code", "math")
HELD_OUT_ROWS = 128
ETAS = (1.0, 0.1)  # the paper's; and one whose weights do not jump from corner to corner in so few steps


def recipe(folder: Path, documents: Path, seed: int, steps: int) -> dict[str, Any]:
    """As configs/recipes/doremi.yml, with these domains and without curation."""
    tokens = str(folder / "tokens")
    sources = {name: {"path": tokens, "source": name, "weight": 1} for name in DOMAINS}

    def trained(name: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        train = {"run_dir": f"{{run}}/{name}", "steps": steps, "seed": seed}
        config = {"base": "train/doremi", "data": {**data, "seed": seed}, "train": train} | more
        return {"verb": "train", "name": name, "config": config, "outputs": [f"{{run}}/{name}/config.yml"]}

    stages = [trained("reference", {"sources": sources})]
    for eta in ETAS:
        objective = {"name": "doremi", "reference": "{run}/reference", "step_size": eta}
        mixture = f"{{run}}/proxy-{eta}/mixture.yml"
        stages.append({**trained(f"proxy-{eta}", {"sources": sources}, objective=objective), "outputs": [mixture]})
        stages.append(trained(f"main-{eta}", {}, base=["train/doremi", mixture]))
    tokenize = {
        "documents": [str(documents)],
        "output": tokens,
        "tokenizer": {"vocab_size": 2048},
        "held_out": {"fraction": 0.1},
        "sequence_lengths": [256],
    }
    stages.insert(0, {"verb": "tokenize", "config": tokenize})
    return {"kind": "recipe", "run_dir": str(folder / f"seed-{seed}"), "stages": stages}


def held_out_losses(run: Path, tokens: Path) -> dict[str, float]:
    """Nats per token on the held-out rows of each domain, up to HELD_OUT_ROWS of them."""
    import jax
    from flax import nnx

    from maxllm.config.train import DataConfig
    from maxllm.data.loader import Loader
    from maxllm.objectives import causal_lm
    from maxllm.train.checkpoint import load_model

    model, tokenizer, _ = load_model(run)
    measure = nnx.jit(causal_lm)
    losses = {}
    for name in DOMAINS:
        data = DataConfig(sources={name: {"path": str(tokens), "source": name}}, sequence_length=256, batch_size=16)
        loader = Loader(data, tokenizer_fingerprint=tokenizer.fingerprint, split="held_out")
        count = min(HELD_OUT_ROWS // 16, loader.steps_per_epoch)
        parts = [measure(model, loader.batch(k))["loss"] for k in range(count)]
        losses[name] = float(jax.tree.map(lambda *x: sum(x), *parts).mean())
    return losses


def measure_seed(folder: Path, documents: Path, seed: int, steps: int) -> dict[str, Any]:
    from maxllm import recipes
    from maxllm.config import resolve
    from maxllm.config.recipe import RecipeConfig

    recipes.run(resolve(RecipeConfig, tree=recipe(folder, documents, seed, steps)).config)
    run = folder / f"seed-{seed}"
    return {
        "seed": seed,
        "doremi": {eta: json.loads((run / f"proxy-{eta}" / "doremi.json").read_text()) for eta in ETAS},
        "uniform": held_out_losses(run / "reference", folder / "tokens"),
        "main": {eta: held_out_losses(run / f"main-{eta}", folder / "tokens") for eta in ETAS},
    }


def report(found: list[dict[str, Any]], sizes: dict[str, int], steps: int, command: str) -> str:
    cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    shape = "2 layers, width 96, vocabulary 2,048, 8 x 256 tokens a step (configs/train/doremi.yml)"
    runs = [(run, eta) for run in found for eta in ETAS]
    lines = [
        "# DoReMi at toy size",
        "",
        (__doc__ or "").partition("RESULTS.md\n")[2].strip(),
        "",
        f"{datetime.date.today()}, 2 shared {platform.machine()} cores, {cpu:.0f} s of CPU in all. {steps} steps of "
        f"{shape}; c 1e-3. Text: "
        + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sorted(sizes.items()))
        + f". `{command}`",
        "",
        "## Weights (mean of alpha over the steps; uniform is 0.25)",
        "",
        *_table(
            ["seed", "eta", *DOMAINS],
            [[run["seed"], str(eta), *(run["doremi"][eta]["weights"][name] for name in DOMAINS)] for run, eta in runs],
        ),
        "",
        "## Held-out loss, nats a token: DoReMi's mixture minus uniform (below 0: DoReMi's is better)",
        "",
    ]
    rows = []
    for run, eta in runs:
        gains = [run["main"][eta][name] - run["uniform"][name] for name in DOMAINS]
        worst = max(run["main"][eta].values()) - max(run["uniform"].values())
        rows.append([run["seed"], str(eta), *gains, statistics.mean(gains), worst])
    lines += _table(["seed", "eta", *DOMAINS, "mean", "worst domain"], rows, signed=True)
    lines += ["", "The losses themselves:", ""]
    rows = []
    for run in found:
        models = {"uniform": run["uniform"], **{f"DoReMi, eta {eta}": run["main"][eta] for eta in ETAS}}
        rows += [[run["seed"], name, *(losses[domain] for domain in DOMAINS)] for name, losses in models.items()]
    lines += _table(["seed", "mixture", *DOMAINS], rows)
    lines += ["", "## Trajectory of alpha", ""]
    for run, eta in runs:
        at = [e for e in run["doremi"][eta]["trajectory"] if e["step"] in {1, 5, 10, 25, 50, 100, 150, steps}]
        lines += [f"Seed {run['seed']}, eta {eta}:", ""]
        lines += _table(["step", *DOMAINS], [[e["step"], *(e["domain_weight"][name] for name in DOMAINS)] for e in at])
        lines += [""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[Any]], signed: bool = False) -> list[str]:
    form = "+.3f" if signed else ".3f"
    cells = [[f"{cell:{form}}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in ([*header], ["---"] * len(header), *cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser.add_argument("--corpus", type=Path, default=shared / "corpus", help="abstracts, MATH and gutenberg/")
    parser.add_argument("--work", type=Path, help="where runs are kept, to go on with; a temporary folder without it")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--most-bytes", type=int, default=2_500_000, help="of each domain")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        documents = folder / "documents.jsonl"
        sizes = corpus.write(arguments.corpus, documents, arguments.most_bytes)
        found = [measure_seed(folder, documents, seed, arguments.steps) for seed in arguments.seeds]
    command = (
        f"python benchmarks/doremi/bench.py --seeds {' '.join(map(str, arguments.seeds))} --steps {arguments.steps}"
    )
    arguments.results.write_text(report(found, sizes, arguments.steps, command), encoding="utf-8")
    print(arguments.results.read_text())


if __name__ == "__main__":
    main()
