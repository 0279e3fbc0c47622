"""Other identifiers, each in the throw-away environment that bench.py makes: peer.py NAME IN.json OUT.json.

IN: a list of texts. OUT: {"seconds": processor time of this process, loading not counted, "labels": one [label,
confidence] a text}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def py3langid() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: identifier.classify(text)


def lingua() -> Callable[[str], tuple[str, float]]:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def identify(text: str) -> tuple[str, float]:
        best = detector.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value

    return identify


def main() -> None:
    name, source, target = sys.argv[1:]
    with open(source, encoding="utf-8") as stream:
        texts = json.load(stream)
    identify = {"py3langid": py3langid, "lingua": lingua}[name]()
    identify("A first text, so that what is loaded late is loaded.")
    start = time.process_time()
    found = [identify(text) for text in texts]
    seconds = time.process_time() - start
    with open(target, "w", encoding="utf-8") as stream:
        json.dump({"seconds": seconds, "labels": [[label, float(confidence)] for label, confidence in found]}, stream)


if __name__ == "__main__":
    main()
