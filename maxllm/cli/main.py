"""`maxllm VERB ...`: finds the verb, prints a user's error as one sentence, exits with 2."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from maxllm import __version__
from maxllm.config.errors import UserError
from maxllm.huge_pages import start_again_with_huge_pages

# verb -> module; the order is the road's.
VERBS = {
    "demo": "maxllm.cli.demo",
    "run": "maxllm.cli.run",
    "config": "maxllm.cli.config",
    "curate": "maxllm.cli.curate",
    "select": "maxllm.cli.select",
    "augment": "maxllm.cli.augment",
    "classifier": "maxllm.cli.classifier",
    "ngram": "maxllm.cli.ngram",
    "contamination": "maxllm.cli.contamination",
    "tokenize": "maxllm.cli.tokenize",
    "mix": "maxllm.cli.mix",
    "inspect": "maxllm.cli.inspect",
    "plan": "maxllm.cli.plan",
    "scaling": "maxllm.cli.scaling",
    "bench": "maxllm.cli.bench",
    "train": "maxllm.cli.train",
    "eval": "maxllm.cli.eval",
    "families": "maxllm.cli.families",
    "export": "maxllm.cli.export",
    "import": "maxllm.cli.import_",
    "generate": "maxllm.cli.generate",
    "serve": "maxllm.cli.serve",
}

EXAMPLES = """examples:
  maxllm demo                                  the whole road on this machine
  maxllm train train/demo train.steps=50       any verb by its own config, with overrides
"""


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `verb` (of every verb when None)."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="maxllm",
        description="Documents in, a served language model out.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"maxllm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module_name in VERBS.items():
        if verb is not None and name != verb:
            verbs.add_parser(name)
            continue
        module = importlib.import_module(module_name)
        summary, _, rest = (module.__doc__ or "").partition("\n")
        verb_parser = verbs.add_parser(
            name, help=summary, description=summary, epilog=rest.strip("\n"), formatter_class=raw
        )
        module.add_arguments(verb_parser)
        verb_parser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 it failed, 2 the user's to mend, 130 interrupted. After `--`: another program's options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, rest = arguments[:split], arguments[split + 1 :]
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    if argv is None and verb == "train":
        start_again_with_huge_pages()
    parser = build_parser(verb)
    args, late = parser.parse_known_args(arguments)
    # argparse takes no positional after an option; an override may stand anywhere all the same.
    if any(extra.startswith("-") or "=" not in extra for extra in late) or (late and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        args.overrides = [*args.overrides, *late]
    args.rest = rest
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"maxllm {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nmaxllm {args.verb}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
