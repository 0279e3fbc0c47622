"""dolma's gopher_v1, in the throw-away environment that bench.py makes: peer_dolma.py IN.json OUT.json.

IN: a list of texts. OUT: the attributes of each, as a map; a list of [n, value] for those of n-grams.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from dolma.taggers.gopher import get_attributes


def main() -> None:
    source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as stream:
        texts = json.load(stream)
    with open(target, "w", encoding="utf-8") as stream:
        json.dump([dataclasses.asdict(get_attributes(text)) for text in texts], stream)


if __name__ == "__main__":
    main()
