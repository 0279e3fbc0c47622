"""The lm-eval adapter: the numbers and texts a slow reading of the model gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm_eval.api.instance import Instance

from maxllm.eval.lm_eval_adapter import MaxllmLM, cut_at
from maxllm.eval.scorer import Scorer
from maxllm.models import Decoder
from maxllm.tokenizer import Tokenizer

LENGTH = 128


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


@pytest.fixture(scope="module")
def padded_logits(model: Decoder):
    """Logits of one text, padded on the right to one length: one program for all the slow readings."""
    compiled = jax.jit(lambda ids: model(ids, jnp.arange(LENGTH)[None])[0])

    def logits(ids: list[int]) -> np.ndarray:
        return np.asarray(compiled(jnp.asarray([ids + [0] * (LENGTH - len(ids))])))[: len(ids)]

    return logits


@pytest.fixture
def adapter(model: Decoder, tokenizer: Tokenizer, padded_logits) -> MaxllmLM:
    def generate(prompts, until, new_tokens, progress):
        texts = []
        for prompt in prompts:
            ids = list(prompt)
            for _ in range(new_tokens):
                ids.append(int(padded_logits(ids)[-1].argmax()))
            texts.append(tokenizer.decode(ids[len(prompt) :]))
        return texts

    return MaxllmLM(Scorer(model, context=LENGTH, batch_tokens=512), tokenizer, generate)


def slow(padded_logits, tokenizer: Tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    start, whole = tokenizer.encode(context, bos=True), tokenizer.encode(context + continuation, bos=True)
    whole = start + whole[len(start) :]  # lm-eval's rule where a token straddles the two
    logits = padded_logits(whole)
    log_p = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=-1, keepdims=True)
    rows = range(len(start) - 1, len(whole) - 1)
    return sum(log_p[r, whole[r + 1]] for r in rows), all(log_p[r].argmax() == whole[r + 1] for r in rows)


def test_loglikelihood_equals_the_slow_full_forward_in_any_order(adapter, padded_logits, tokenizer):
    pairs = [
        ("def test_", "batched"),
        ("import", " jax"),
        ("", "from __future__ import annotations"),
        ("a b ", "c"),  # the space moves to the continuation, by lm-eval's rule
        ("The adapter", ", without PyTorch"),
        ("import numpy as np\n" * 3, "import pytest"),
    ]
    results = adapter.loglikelihood(requests("loglikelihood", pairs))
    reversed_results = adapter.loglikelihood(requests("loglikelihood", pairs[::-1]))[::-1]
    for (context, continuation), (log_p, greedy), (again, _) in zip(pairs, results, reversed_results, strict=True):
        trimmed = context.rstrip()
        expected, expected_greedy = slow(padded_logits, tokenizer, trimmed, context[len(trimmed) :] + continuation)
        assert log_p == pytest.approx(expected, abs=1e-3), (context, continuation)
        assert again == pytest.approx(log_p, abs=1e-4)
        assert greedy == expected_greedy
    assert adapter.did_not_fit == 0


def test_the_models_own_next_words_are_greedy(adapter, padded_logits, tokenizer):
    ids = tokenizer.encode("import", bos=True)
    for _ in range(40):  # until its answer is text that encodes to the same ids
        ids.append(int(padded_logits(ids)[-1].argmax()))
        said = tokenizer.decode(ids)
        if tokenizer.encode(said, bos=True) == ids:
            break
    assert adapter.loglikelihood(requests("loglikelihood", [("import", said[6:])]))[0][1]


def test_long_prompts_lose_their_beginning_and_are_counted(adapter):
    question = "What is 2 + 2?"
    long = "".join(f"line {number} of a long prompt\n" for number in range(100)) + question
    other = "different words before " * 100 + long[-600:]
    results = adapter.loglikelihood(requests("loglikelihood", [(long, " 4"), (other, " 4")]))
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert adapter.did_not_fit == 2


def test_rolling_scores_every_token_of_a_long_text_once(adapter, padded_logits, tokenizer, texts):
    text = texts[0][:700]
    ids = tokenizer.encode(text)
    assert len(ids) > LENGTH
    (log_p,) = adapter.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    tokens = [tokenizer.bos_id, *ids]
    expected = 0.0
    for done in range(1, len(tokens), LENGTH):
        end = min(len(tokens), done + LENGTH)
        window = tokens[max(0, end - LENGTH - 1) : end]
        logits = padded_logits(window[:-1]).astype(np.float64)
        rows = np.arange(len(window) - 1)[-(end - done) :]
        nats = np.logaddexp.reduce(logits, axis=-1)[rows] - logits[rows, np.array(window[1:])[rows]]
        expected -= nats.sum()
    assert log_p == pytest.approx(expected, rel=1e-5)


def test_generation_ends_before_the_first_stop_string(adapter, padded_logits, tokenizer):
    arguments = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    (whole,) = adapter.generate_until(requests("generate_until", [("import", arguments)]))
    assert whole
    stop = whole[len(whole) // 2 :][:3]
    cut, same = adapter.generate_until(
        requests("generate_until", [("import", arguments | {"until": [stop]}), ("import", arguments)])
    )
    assert cut == whole[: whole.find(stop)] and same == whole


def test_the_earliest_stop_string_wins():
    assert cut_at("one two three", ["three", "two", ""]) == "one "
    assert cut_at("one", ["x"]) == "one"
