"""Sequence-classification models of the Hugging Face layout, such as FineWeb-Edu's (arXiv 2406.17557, section 4.1).

On a processor texts are scored one at a time: a batch gains nothing there, and padding would make a score depend, in
its last digits, on what else was in the batch. On an accelerator they go in batches of up to 32, longest first.
"""

from __future__ import annotations

import math
from typing import Any

from data_beam.classify.classifier import DIGITS, fingerprint
from maxllm.config.errors import UserError

CHARACTERS_READ = 20_000  # beyond what 512 tokens can hold of nearly any text
MAX_TOKENS = 512
BATCH = 32
SCORE = "score"


class HuggingFaceModel:
    """One output: a regression, its value is the score. Several: probabilities by label, of a softmax, or each its own
    sigmoid where the model's `problem_type` is `multi_label_classification`."""

    labels: dict[str, tuple[str, ...]] = {}

    def __init__(self, model: str, clamp: tuple[float, float] | None, setting: str) -> None:
        try:
            import torch
            import transformers
        except ImportError:
            raise UserError(
                f"{setting}: {model} needs PyTorch and transformers; install maxllm[transformers]"
            ) from None
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            self._model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
                model, dtype=torch.float32
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"{setting}: {model} cannot be loaded ({reason}); give a whole folder or a model's name"
            ) from None
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device)
        config = self._model.config
        self._clamp = clamp
        self._names = [str(config.id2label[index]) for index in range(config.num_labels)]
        self._sigmoid = config.problem_type == "multi_label_classification"
        self._max_tokens = min(
            MAX_TOKENS, self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", MAX_TOKENS)
        )
        self.keys = (SCORE,) if config.num_labels == 1 else tuple(self._names)
        weights = [bytes(_numbers(parameter)) for _, parameter in sorted(self._model.state_dict().items())]
        self.version = f"huggingface-1-{fingerprint(*weights, str(clamp), str(self._max_tokens))}"

    def score(self, texts: list[str]) -> list[dict[str, float]]:
        size = BATCH if self._device == "cuda" else 1
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        results: list[dict[str, float]] = [{} for _ in texts]
        for start in range(0, len(order), size):
            places = order[start : start + size]
            for place, scores in zip(places, self._batch([texts[place] for place in places]), strict=True):
                results[place] = scores
        return results

    def _batch(self, texts: list[str]) -> list[dict[str, float]]:
        torch = self._torch
        heads = [text[:CHARACTERS_READ].encode("utf-8", "replace").decode("utf-8") for text in texts]
        inputs = self._tokenizer(
            heads, return_tensors="pt", padding=True, truncation=True, max_length=self._max_tokens
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**inputs).logits.float()  # [batch, labels]
        if len(self._names) == 1:
            return [{SCORE: round(self._clamped(row[0]), DIGITS)} for row in logits.tolist()]
        probabilities = logits.sigmoid() if self._sigmoid else logits.softmax(-1)
        return [
            {name: round(value, DIGITS) for name, value in zip(self._names, row, strict=True)}
            for row in probabilities.tolist()
        ]

    def _clamped(self, score: float) -> float:
        if not math.isfinite(score):
            raise ValueError(f"the model gave {score}")
        return score if self._clamp is None else min(max(score, self._clamp[0]), self._clamp[1])


def _numbers(parameter: Any) -> memoryview:
    return memoryview(parameter.detach().cpu().contiguous().numpy()).cast("B")
