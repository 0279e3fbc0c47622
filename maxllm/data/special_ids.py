"""Ids that stand for no text but mark where it was hidden, cut or moved: the tokenizer's own, or reserved ones.

A tokenizer without a mask token, sentinels and so on lends none of its words. The ids from the end of the model's
vocabulary backwards stand in, those that lie beyond the tokenizer's: rows of the embedding that no text ever uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maxllm.config.errors import UserError
from maxllm.tokenizer import Tokenizer

# In order; UL2's tokens of the released model are [NLU] for R, [S2S] for S, [NLG] for X (Tay et al. 2022).
NAMES = {
    "mask": (("[MASK]", "<mask>"),),
    "begin": (("[CLS]", "<s>"),),
    "end": (("[SEP]", "</s>"),),
    "modes": (("[R]", "[NLU]"), ("[S]", "[S2S]"), ("[X]", "[NLG]")),
    "holes": (
        ("<|fim_prefix|>", "<fim_prefix>", "▁<PRE>", "<PRE>", "<｜fim▁begin｜>"),
        ("<|fim_suffix|>", "<fim_suffix>", "▁<SUF>", "<SUF>", "<｜fim▁hole｜>"),
        ("<|fim_middle|>", "<fim_middle>", "▁<MID>", "<MID>", "<｜fim▁end｜>"),
    ),
}


class Ids(NamedTuple):
    """What an objective does not use is -1 or empty."""

    vocabulary: np.ndarray  # bool [ids of the tokenizer]: whether it stands for text
    sentence_end: np.ndarray  # bool [the same]: text that ends with a full stop
    begin: int | None = None  # [CLS], <s>: None where the tokenizer has none
    end: int = -1  # [SEP], </s>
    mask: int = -1
    start: int = 0  # what a decoder begins with
    sentinels: np.ndarray = np.zeros(0, np.int32)
    modes: np.ndarray = np.zeros(0, np.int32)  # R, S, X
    holes: np.ndarray = np.zeros(0, np.int32)  # before the prefix, the suffix, the middle


def find(tokenizer: Tokenizer, vocab_size: int, objective: str, wanted: Sequence[str], sentinels: int = 0) -> Ids:
    """`wanted`: of mask, modes, holes. `begin` and `end` come along. `vocab_size`: of the model.

    Raises UserError where the tokenizer lacks some and the model's vocabulary has no room for them.
    """
    special, taken = tokenizer.special_tokens, [vocab_size]

    def reserved(count: int, what: str) -> list[int]:
        taken[0] -= count
        if taken[0] < tokenizer.vocab_size:
            missing = tokenizer.vocab_size - taken[0]
            raise UserError(
                f"objective.name {objective}: the tokenizer has no {what}, and model.vocab_size {vocab_size} leaves "
                f"too few ids beyond the tokenizer's {tokenizer.vocab_size}; set model.vocab_size="
                f"{-(-(vocab_size + missing) // 64) * 64} or more"
            )
        return list(range(taken[0] + count - 1, taken[0] - 1, -1))

    def named(kind: str) -> list[int]:
        own = [next((special[name] for name in names if name in special), None) for names in NAMES[kind]]
        return reserved(len(own), kind) if None in own else own

    own = []
    while f"<extra_id_{len(own)}>" in special and len(own) < sentinels:
        own.append(special[f"<extra_id_{len(own)}>"])
    if own and len(own) < sentinels:
        raise UserError(
            f"objective.name {objective}: a row may need {sentinels} sentinels, and the tokenizer has {len(own)}; use "
            "shorter rows (data.sequence_length) or longer spans (objective.span)"
        )
    found = {kind: named(kind) for kind in wanted}
    begin = next((special[name] for name in NAMES["begin"][0] if name in special), tokenizer.bos_id)
    end = tokenizer.eos_id if tokenizer.eos_id is not None else named("end")[0]
    pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return Ids(
        vocabulary=np.array([bool(piece) and i not in tokenizer.special_ids for i, piece in enumerate(pieces)]),
        sentence_end=np.array([piece.rstrip().endswith(b".") for piece in pieces]),
        begin=begin,
        end=end,
        mask=found.get("mask", [-1])[0],
        sentinels=np.array(own or reserved(sentinels, "sentinels"), np.int32),
        modes=np.array(found.get("modes", []), np.int32),
        holes=np.array(found.get("holes", []), np.int32),
    )
