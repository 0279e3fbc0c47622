"""Runs in datatrove's environment: FOLDER/documents.jsonl in, FOLDER/datatrove.json and spaCy's words out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "curation"))

import peer_datatrove as shared  # noqa: E402  benchmarks/curation's; reads the documents when imported
from datatrove.pipeline.dedup import minhash as minhash_module  # noqa: E402
from datatrove.utils import word_tokenizers  # noqa: E402
from datatrove.utils.text import DEF_TEXT_NORM_CONFIG, simplify_text  # noqa: E402
from loguru import logger  # noqa: E402


def main() -> None:
    logger.disable("datatrove")
    seconds = shared.dedup()
    words = word_tokenizers.load_word_tokenizer("eng")
    simple = [simplify_text(row["text"], DEF_TEXT_NORM_CONFIG) for row in shared.ROWS]
    seconds["words"], split = shared.timed(lambda: [words.word_tokenize(text) for text in simple])
    (shared.FOLDER / "spacy_words.json").write_text(json.dumps(split))
    word_tokenizers.load_word_tokenizer = lambda language: shared.FastWords()
    minhash_module.load_word_tokenizer = word_tokenizers.load_word_tokenizer
    seconds |= shared.dedup(" on fast words")
    found = {"datatrove": shared.CLUSTERS["clusters"]}
    (shared.FOLDER / "datatrove.json").write_text(json.dumps({"seconds": seconds, "clusters": found}))


if __name__ == "__main__":
    main()
