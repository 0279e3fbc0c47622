"""A model of `perplexity.models` with what belongs to it: how text becomes its words, and its fingerprint."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache

import xxhash
from apache_beam.io.filesystems import FileSystems
from pydantic import ValidationError

from data_beam.io.files import open_file
from data_beam.ngram.prepare import Preparation
from data_beam.ngram.scorer import ArpaScorer, KenlmScorer, Scorer
from data_beam.output import read_json
from maxllm.config.errors import UserError
from maxllm.config.perplexity import PreparationConfig

DESCRIPTION = "ngram.json"
ARPA = (".arpa", ".arpa.gz")
COPY = 1 << 22


@dataclass(frozen=True, slots=True)
class Model:
    scorer: Scorer
    preparation: Preparation
    fingerprint: str  # of the model file's content and the preparation

    def log10(self, text: str) -> tuple[float, int]:
        """(log10 of the text's probability, how many words it counts as: those of each line and its end)

        A line is a sentence and an empty one none, as in CCNet's DocLM.
        """
        lines = list(self.preparation.lines(text))
        return (self.scorer.score(lines), sum(map(len, lines)) + len(lines)) if lines else (0.0, 0)


@cache
def load_model(path: str, preparation: PreparationConfig | None) -> Model:
    """`path`: a folder that `maxllm ngram` wrote, an ARPA file or KenLM's binary. Once per process. Raises UserError.

    `preparation` counts where no ngram.json says how the model's text was prepared; without either, words stand between
    white space.
    """
    folder, description = path, _description(path)
    if description is not None:
        path = FileSystems.join(folder, description["model"])
    elif not FileSystems.exists(path):
        raise UserError(f"perplexity.models: {path} does not exist; give a folder of `maxllm ngram` or a model file")
    else:
        folder = path.replace("\\", "/").rpartition("/")[0]
        beside = _description(folder) if folder else None
        description = beside if beside and path.endswith(f"/{beside['model']}") else None
    if description is not None:
        preparation = _preparation(folder, description)
    prepare = Preparation(preparation or PreparationConfig())
    scorer = ArpaScorer(path) if path.endswith(ARPA) else KenlmScorer(_local(path))
    return Model(scorer, prepare, _fingerprint(path, preparation))


def _description(folder: str) -> dict | None:
    try:
        return read_json(FileSystems.join(folder, DESCRIPTION))
    except (OSError, ValueError):  # a file is no folder
        return None


def _preparation(folder: str, description: dict) -> PreparationConfig:
    try:
        found = PreparationConfig.model_validate(description["preparation"])
    except (KeyError, ValidationError):
        raise UserError(f"perplexity.models: {folder}/{DESCRIPTION} is not one that `maxllm ngram` wrote") from None
    tokenizer = found.tokenizer and FileSystems.join(folder, *found.tokenizer.split("/"))
    return PreparationConfig(normalisation=found.normalisation, tokenizer=tokenizer)


def _fingerprint(path: str, preparation: PreparationConfig | None) -> str:
    digest = xxhash.xxh3_64()
    with open_file(path) as stream:
        while data := stream.read(COPY):
            digest.update(data)
    if preparation is not None:
        tokenizer = preparation.tokenizer
        digest.update(json.dumps([preparation.normalisation, tokenizer and tokenizer.rpartition("/")[2]]).encode())
        if tokenizer and tokenizer.endswith(".model"):
            with open_file(tokenizer) as stream:
                digest.update(stream.read())
    return digest.hexdigest()


def _local(path: str) -> str:
    """KenLM maps a file of this machine into memory; from elsewhere it is copied once per process."""
    if "://" not in path:
        return path
    with open_file(path) as stream, tempfile.NamedTemporaryFile(delete=False) as target:
        shutil.copyfileobj(stream, target, COPY)
    return target.name
