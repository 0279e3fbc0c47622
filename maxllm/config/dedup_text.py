"""Settings of duplicate removal inside documents and by meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from maxllm.config.section import Section


class SubstringDedupConfig(Section):
    """Passages that an older document has too are cut: Lee et al. 2022 (arXiv 2107.06499), 50 tokens."""

    enabled: bool = False
    min_tokens: int = Field(50, ge=2, description="runs of letters, runs of signs; in Han, kana, Thai a character each")
    min_words_left: int = Field(50, ge=0, description="a document with fewer words after a cut is dropped")


class SemanticDedupConfig(Section):
    """SemDeDup: Abbas et al. 2023 (arXiv 2303.09540). Documents are compared within k-means clusters only."""

    enabled: bool = False
    encoder: str = Field(
        "hashing",
        description="hashing; the folder of a sentence-transformers model; module:function; or http(s)://HOST/v1",
    )
    model: str = Field("", description="name to ask an http(s) encoder for")
    eps: float = Field(0.1, gt=0, lt=2, description="a document goes whose cosine with a preferred one is over 1 - eps")
    keep: Literal["oldest", "hard", "easy"] = Field(
        "oldest", description="hard, the paper's: of a pair the one farther from its cluster's centre stays"
    )
    clusters: PositiveInt | None = Field(None, description="null: √n of n documents, at most n / 2000")
    iterations: int = Field(10, ge=0, description="of k-means, on 256 documents a cluster")
    max_cluster: PositiveInt = Field(50_000, description="larger clusters are split; bounds memory and time")
    seed: int = 1
