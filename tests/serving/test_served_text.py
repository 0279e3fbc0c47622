"""What is served is what the model says: the slow, obvious twin runs the whole text through the decoder each time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.train.checkpoint import load_any

PROMPTS = ["def add(", "the quick brown", "é", "for index, value in enumerate(values):\n    print("]
NEW, LENGTH = 24, 64


@pytest.fixture(scope="module")
def logits(model_folder):
    """`logits(texts)`: for each list of token ids the float32 `[LENGTH, vocab]` of an uncached forward pass."""
    model, _, _ = load_any(model_folder)
    structure, parameters = nnx.split(model)
    forward = jax.jit(lambda parameters, *inputs: nnx.merge(structure, parameters)(*inputs))

    def run(texts: list[list[int]]) -> np.ndarray:
        tokens = np.zeros((len(PROMPTS), LENGTH), np.int32)  # what follows a text is not attended to
        for row, ids in enumerate(texts):
            tokens[row, : len(ids)] = ids
        return np.asarray(forward(parameters, tokens, np.broadcast_to(np.arange(LENGTH), tokens.shape)))

    return run


@pytest.fixture(scope="module")
def greedy(logits, server) -> list[list[int]]:
    """After each of PROMPTS, NEW tokens, each the argmax of an uncached forward pass; fewer if the text ends."""
    tokenizer = server.gateway.tokenizer
    prompts = [tokenizer.encode(prompt, bos=True) for prompt in PROMPTS]
    drawn: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(NEW):
        texts = [prompt + answer for prompt, answer in zip(prompts, drawn, strict=True)]
        for text, row, answer in zip(texts, logits(texts), drawn, strict=True):
            answer.append(int(row[len(text) - 1].argmax()))
    return [answer[: answer.index(tokenizer.eos_id)] if tokenizer.eos_id in answer else answer for answer in drawn]


def test_greedy_text_is_the_models_over_each_port_alone_and_together(server, jetstream, openai_client, greedy):
    assert any(len(ids) == NEW for ids in greedy)
    texts = [server.gateway.tokenizer.decode(ids) for ids in greedy]
    calls = [{"textContent": {"text": prompt}, "maxTokens": NEW} for prompt in PROMPTS]

    def over_http(prompt: str) -> str:
        return openai_client.completions.create(model="tiny", prompt=prompt, max_tokens=NEW).choices[0].text

    alone = [jetstream(server.grpc_port, call)["answers"][0] for call in calls]
    together = jetstream(server.grpc_port, *calls)["answers"]
    for answers in (alone, together):
        assert [sum(answer["token_ids"], []) for answer in answers] == greedy
        assert ["".join(answer["pieces"]) for answer in answers] == texts
    assert [over_http(prompt) for prompt in PROMPTS] == texts
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(over_http, PROMPTS)) == texts


def test_echoed_and_drawn_logprobs_are_the_models(server, openai_client, logits, greedy):
    ids = server.gateway.tokenizer.encode(PROMPTS[0], bos=True)
    text = ids + greedy[0][:6]
    expected = jax.nn.log_softmax(logits([text])[0])[np.arange(len(text) - 1), text[1:]]
    drawn = openai_client.completions.create(model="tiny", prompt=ids, max_tokens=6, logprobs=0, echo=True)
    scored = openai_client.completions.create(model="tiny", prompt=text, max_tokens=0, logprobs=0, echo=True)
    for answer in (drawn, scored):
        np.testing.assert_allclose(answer.choices[0].logprobs.token_logprobs[1:], expected, atol=1e-4)
