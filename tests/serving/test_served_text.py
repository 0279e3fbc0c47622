"""What is served is what the model says: the slow, obvious twin runs the whole text through the decoder each time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.train.checkpoint import load_any

PROMPTS = ["def add(", "the quick brown", "é", "for index, value in enumerate(values):\n    print("]
NEW, LENGTH = 24, 64


@pytest.fixture(scope="module")
def logits(model_folder):
    """`logits(ids)`: float32 `[len(ids), vocab]` of an uncached forward pass."""
    model, _, _ = load_any(model_folder)
    forward = nnx.jit(lambda model, tokens, positions: model(tokens, positions))

    def run(ids: list[int]) -> np.ndarray:
        tokens = np.zeros((1, LENGTH), np.int32)  # what follows is not attended to
        tokens[0, : len(ids)] = ids
        return np.asarray(forward(model, jnp.asarray(tokens), jnp.arange(LENGTH)[None])[0, : len(ids)])

    return run


@pytest.fixture(scope="module")
def greedy(logits, server):
    """`greedy(prompt)`: NEW tokens, each the argmax of an uncached forward pass."""
    tokenizer = server.gateway.tokenizer

    def run(prompt: str) -> list[int]:
        ids = tokenizer.encode(prompt, bos=True)
        drawn: list[int] = []
        while len(drawn) < NEW and (token := int(logits(ids + drawn)[-1].argmax())) != tokenizer.eos_id:
            drawn.append(token)
        return drawn

    return run


def test_greedy_text_is_the_models_over_each_port_alone_and_together(server, jetstream, openai_client, greedy):
    expected = [greedy(prompt) for prompt in PROMPTS]
    assert any(len(ids) == NEW for ids in expected)
    texts = [server.gateway.tokenizer.decode(ids) for ids in expected]
    calls = [{"textContent": {"text": prompt}, "maxTokens": NEW} for prompt in PROMPTS]

    def over_http(prompt: str) -> str:
        return openai_client.completions.create(model="tiny", prompt=prompt, max_tokens=NEW).choices[0].text

    alone = [jetstream(server.grpc_port, call)["answers"][0] for call in calls]
    together = jetstream(server.grpc_port, *calls)["answers"]
    for answers in (alone, together):
        assert [sum(answer["token_ids"], []) for answer in answers] == expected
        assert ["".join(answer["pieces"]) for answer in answers] == texts
    assert [over_http(prompt) for prompt in PROMPTS] == texts
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(over_http, PROMPTS)) == texts


def test_echoed_and_drawn_logprobs_are_the_models(server, openai_client, logits, greedy):
    ids = server.gateway.tokenizer.encode(PROMPTS[0], bos=True)
    text = ids + greedy(PROMPTS[0])[:6]
    expected = jax.nn.log_softmax(logits(text), axis=-1)[np.arange(len(text) - 1), text[1:]]
    drawn = openai_client.completions.create(model="tiny", prompt=ids, max_tokens=6, logprobs=0, echo=True)
    scored = openai_client.completions.create(model="tiny", prompt=text, max_tokens=0, logprobs=0, echo=True)
    for answer in (drawn, scored):
        np.testing.assert_allclose(answer.choices[0].logprobs.token_logprobs[1:], expected, atol=1e-4)
