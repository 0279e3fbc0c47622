"""Scaling laws: how large a model and how many tokens a budget is best spent on; your own runs' law.

`budget` turns FLOPs, or dollars on a machine, into parameters and tokens. `fit` finds the law of your runs, from their
run directories or from a CSV or JSON-lines file with the columns parameters, tokens and loss, and what it predicts.

examples:
  maxllm scaling budget --flops 1e22
  maxllm scaling budget --dollars 100000 --on h100x8 --mfu 0.4
  maxllm scaling fit losses.csv --flops 1e22
  maxllm scaling fit runs/n10m runs/n30m runs/n100m runs/n100m-long runs/n30m-long --predict 1e9,20e9
"""

from __future__ import annotations

import argparse

from maxllm.config.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    budget = verbs.add_parser("budget", help="FLOPs or dollars -> parameters and tokens")
    _add_budget(budget, required=True)
    fit = verbs.add_parser("fit", help="runs -> their law")
    fit.add_argument("runs", nargs="+", metavar="RUNS|FILE", help="run directories, or a table of losses")
    fit.add_argument(
        "--predict", metavar="N,D", action="append", default=[], help="loss of N parameters after D tokens"
    )
    _add_budget(fit, required=False)


def _add_budget(parser: argparse.ArgumentParser, *, required: bool) -> None:
    what = parser.add_mutually_exclusive_group(required=required)
    what.add_argument("--flops", type=float, metavar="C", help="of the whole training, such as 1e22")
    what.add_argument("--dollars", type=float, metavar="USD", help="with --on")
    parser.add_argument("--on", metavar="MACHINE", help="such as h100x8 or v5e-256: what it takes there")
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of the machine's peak that training reaches (0.4)"
    )
    parser.add_argument(
        "--prices", default="prices/accelerators", metavar="FILE", help="dollars an hour, yours to edit"
    )


def run(args: argparse.Namespace) -> int:
    return _budget(args) if args.what == "budget" else _fit(args)


def _budget(args: argparse.Namespace) -> int:
    from maxllm.plan import scaling

    flops, machine = _flops(args)
    choices = {
        "20 tokens a parameter": scaling.by_ratio(flops),
        "Chinchilla, Besiroglu et al. 2024": scaling.BESIROGLU.optimal(flops),
        "Chinchilla, Hoffmann et al. 2022": scaling.HOFFMANN.optimal(flops),
        "Kaplan et al. 2020 (superseded)": scaling.Kaplan.optimal(flops),
    }
    _show(choices, flops, scaling.BESIROGLU, "loss, Besiroglu's law")
    if machine:
        _spend(args, flops, machine)
    print(
        "Losses are of those papers' corpora and tokenizers, yours are others: fit your own runs (maxllm scaling fit). "
        "A model that will serve many tokens is better smaller and trained longer."
    )
    return 0


def _fit(args: argparse.Namespace) -> int:
    from maxllm.plan import scaling
    from maxllm.plan.scaling_runs import read_points

    points = read_points(args.runs)
    law = scaling.fit(points)
    laws = scaling.bootstrap(points, law)
    print(f"{len(points)} runs: L(N, D) = E + A / N^alpha + B / D^beta, with 80 % bootstrap intervals")
    for name in ("E", "A", "B", "alpha", "beta"):
        low, high = scaling.interval([getattr(each, name) for each in laws])
        print(f"  {name:5} {getattr(law, name):10.4g}   {low:.4g} to {high:.4g}")
    worst = max(points, key=lambda point: abs(law.loss(point.parameters, point.tokens) / point.loss - 1))
    error = law.loss(worst.parameters, worst.tokens) / worst.loss - 1
    print(f"  worst of the runs: {error:+.2%} at N = {_short(worst.parameters)}, D = {_short(worst.tokens)}")
    _isoflop(points)
    for wanted in args.predict:
        parameters, tokens = _pair(wanted)
        low, high = scaling.interval([each.loss(parameters, tokens) for each in laws])
        expected = law.loss(parameters, tokens)
        print(f"N = {_short(parameters)}, D = {_short(tokens)}: loss {expected:.4f}, {low:.4f} to {high:.4f}")
    if args.flops or args.dollars:
        flops, machine = _flops(args)
        low, high = scaling.interval([each.optimal(flops)[0] for each in laws])
        choices = {
            "your runs' law": law.optimal(flops),
            "  80 % interval, from": (low, flops / 6 / low),
            "  to": (high, flops / 6 / high),
            "20 tokens a parameter": scaling.by_ratio(flops),
        }
        _show(choices, flops, law, "loss, your runs' law")
        furthest = max(point.flops for point in points)
        if flops > 30 * furthest:
            print(f"  {flops / furthest:,.0f} times the FLOPs of the largest run: further than a law is to be trusted")
        if machine:
            _spend(args, flops, machine)
    return 0


def _isoflop(points) -> None:
    from maxllm.plan import scaling

    try:
        found = scaling.isoflop(points)
    except UserError as error:
        print(f"no IsoFLOP fit: {error}")
        return
    print(f"IsoFLOP parabolas at {len(found.bottoms)} budgets: N = {found.k:.3g} C^{found.a:.3f}")
    for each in found.bottoms:
        print(f"  C = {each.flops:.2e}: N = {_short(each.parameters)}, D = {_short(each.tokens)}, loss {each.loss:.4f}")


def _flops(args: argparse.Namespace):
    """The budget in FLOPs, and the machine that was named."""
    from maxllm.plan.cost import load_prices, tokens_for
    from maxllm.plan.machines import machine

    named = machine(args.on, load_prices(args.prices).per_hour) if args.on else None
    if named and "bfloat16" not in named.peak_flops:
        raise UserError(f"--on {args.on}: its peak is not known, so neither is what it costs")
    if args.flops:
        if args.flops <= 0:
            raise UserError(f"--flops {args.flops:g}: must be positive")
        return args.flops, named
    if not named:
        raise UserError("--dollars needs --on MACHINE, such as h100x8")
    return tokens_for(args.dollars, _rate(args, named), named), named  # of FLOPs, here: a "token" that costs one


def _rate(args: argparse.Namespace, machine) -> float:
    """FLOP/s of the whole machine."""
    from maxllm.plan.cost import expected_tokens_per_second

    return expected_tokens_per_second(
        machine, flops_per_token=1.0, roofline_tokens_per_second=None, utilisation=1.0, mfu=args.mfu
    )[0]


def _spend(args: argparse.Namespace, flops: float, machine) -> None:
    from maxllm.plan.cost import cost

    spent = cost(flops, _rate(args, machine), machine)
    dollars = "no price known" if spent.dollars is None else f"${spent.dollars:,.0f}"
    print(
        f"{flops:.3g} FLOPs on {machine.name} at {args.mfu:.0%} of its peak: {spent.days:,.1f} days, "
        f"{spent.device_hours:,.0f} device hours, {dollars}"
    )


def _show(choices: dict[str, tuple[float, float]], flops: float, law, loss: str) -> None:
    print(f"{flops:.3g} FLOPs = 6 N D")
    print(f"  {'':34} {'parameters':>10} {'tokens':>8} {'D / N':>7}  {loss}")
    for name, (parameters, tokens) in choices.items():
        line = f"  {name:34} {_short(parameters):>10} {_short(tokens):>8} {tokens / parameters:7.1f}"
        print(f"{line}  {law.loss(parameters, tokens):.3f}")


def _short(number: float) -> str:
    """12.3B; three digits."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _pair(text: str) -> tuple[float, float]:
    try:
        parameters, tokens = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--predict {text}: two numbers, parameters and tokens, such as 1e9,20e9") from None
    return parameters, tokens
