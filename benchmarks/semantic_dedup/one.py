"""One encoder on the corpus: SemDeDup as it is, on Beam, for each number of clusters. Prints nothing; writes JSON.

python one.py CORPUS.json ENCODER OUT.json
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_beam.dedup.semantic import SemanticDuplicates
from data_beam.document import Document
from data_beam.embed import encoder
from maxllm.config.dedup_text import SemanticDedupConfig

# Everything above this cosine is written out, so that one run answers for every smaller eps.
WIDEST = 0.6
VECTORS: dict[str, np.ndarray] = {}


def stored(texts: list[str]) -> np.ndarray:
    """What the encoder said before: each text is encoded once, whatever is made of it."""
    return np.stack([VECTORS[text] for text in texts])


def main() -> None:
    corpus, name, out = sys.argv[1:]
    rows = json.loads(Path(corpus).read_text())
    documents = [Document(row["id"], row["text"], "", "2001" if row["kind"] else "2000") for row in rows]
    encode = encoder.load(name, "")
    encode([documents[0].text])
    texts = [document.text for document in documents]
    started = time.process_time()
    vectors = [encode(texts[start : start + 32]) for start in range(0, len(texts), 32)]
    result: dict = {"encode": time.process_time() - started}
    sys.modules["one"] = sys.modules["__main__"]
    VECTORS.update(zip(texts, np.concatenate(vectors), strict=True))
    for label, clusters in (("1", 1), ("root", math.isqrt(len(documents)))):
        config = SemanticDedupConfig(encoder="one:stored", eps=WIDEST, clusters=clusters)
        written = Path(out).with_suffix(".drops")
        started = time.process_time()
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            (
                pipeline
                | beam.Create(documents, reshuffle=False)
                | SemanticDuplicates(config)
                | beam.MapTuple(lambda id, drop: json.dumps([id, drop.value]))
                | beam.io.WriteToText(str(written), num_shards=1, shard_name_template="")
            )
        result[f"seconds {label}"] = time.process_time() - started
        result[f"drops {label}"] = [json.loads(line) for line in written.read_text().splitlines()]
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
