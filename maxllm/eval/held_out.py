"""The held-out documents of token data sets, scored source by source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from maxllm.config.errors import UserError
from maxllm.data.dataset import Dataset, read_documents
from maxllm.eval.baselines import Unigram
from maxllm.eval.bits_per_byte import measure, total
from maxllm.eval.progress import Meter
from maxllm.eval.scorer import Scorer
from maxllm.tokenizer import Tokenizer

SPLIT = "held_out"
UNIGRAM_TOKENS = 20_000_000  # counts of more training tokens change its figure in the fourth digit


def score_dataset(
    scorer: Scorer, tokenizer: Tokenizer, path: str, *, max_documents: int, meter: Meter
) -> dict[str, Any]:
    """`{"sources": {name: figures}, "all": figures, ...}`; figures as `Measured.row`.

    Documents of another tokenizer's data set are encoded again with the model's: bits per byte allows it.
    Raises UserError if the data set has no held-out documents.
    """
    reader = _Reader(path, tokenizer)
    sources = [name for name in reader.dataset.sources(SPLIT) if reader.count(SPLIT, name, "documents")]
    if not sources:
        raise UserError(f"{path} has no held-out documents; tokenize with held_out.fraction above 0")
    unigram, seen = reader.unigram(meter)
    parts = {}
    for source in sources:
        documents = reader.held_out(source, max_documents)
        parts[source] = measure(
            scorer,
            tokenizer,
            documents,
            unigram,
            lambda done, all_windows, source=source: meter(f"{source}, held out", done, all_windows),
        )
    return {
        "sources": {
            source: part.row() | {"held_out_documents": reader.count(SPLIT, source, "documents")}
            for source, part in parts.items()
        },
        "all": total(parts.values()).row(),
        "unigram_training_tokens": seen,
        "encoded_again": reader.other is not None,
    }


class _Reader:
    """A data set's documents as the model's tokens."""

    def __init__(self, path: str, tokenizer: Tokenizer):
        self.path = path
        self.dataset = Dataset(path)
        self.tokenizer = tokenizer
        same = self.dataset.tokenizer_fingerprint == tokenizer.fingerprint
        self.other = None if same else Tokenizer.load(self.dataset.path / "tokenizer")
        for whose, used in (("data set", self.other), ("model", tokenizer)):
            if used and not used.lossless:
                raise UserError(
                    f"{path}: bits per byte need the texts as they were, and the {whose}'s tokenizer changes them "
                    f"(white space, case or characters); score a {whose} with a lossless one, or --tasks"
                )

    def count(self, split: str, source: str, what: str) -> int:
        return self.dataset.description["counts"][split][source][what]

    def held_out(self, source: str, most: int) -> list[np.ndarray]:
        """At most `most` documents, evenly spaced in the order of their (hashed) ids."""
        available = self.count(SPLIT, source, "documents")
        wanted = {i * available // most for i in range(most)} if available > most else None
        documents = enumerate(read_documents(self.path, SPLIT, source))
        return [self._ids(ids) for index, (_, _, ids) in documents if wanted is None or index in wanted]

    def unigram(self, meter: Meter) -> tuple[Unigram, int]:
        """Fit on the training split of every source; of each the same share where they are too many."""
        sources = self.dataset.sources("train")
        available = sum(self.count("train", source, "tokens") for source in sources)
        share = min(1.0, UNIGRAM_TOKENS / max(1, available))
        unigram, seen = Unigram(self.tokenizer.vocab_size), 0
        for source in sources:
            allowed = share * self.count("train", source, "tokens")
            for ids in self._training(source):
                if allowed <= 0:
                    break
                # The beginning token is given to the model; it is no token the unigram model has to predict.
                ids = ids[1:] if len(ids) and ids[0] == self.tokenizer.bos_id else ids
                unigram.fit(ids)
                allowed -= len(ids)
                seen += len(ids)
                meter("unigram counts", seen, int(share * available))
        return unigram, seen

    def _training(self, source: str) -> Iterator[np.ndarray]:
        for _, _, ids in read_documents(self.path, "train", source):
            yield self._ids(ids)

    def _ids(self, ids: np.ndarray) -> np.ndarray:
        if self.other is None:
            return ids.astype(np.int64)
        return np.array(self.tokenizer.encode(self.other.decode(ids.tolist()), bos=True, eos=True))
