"""OpenAI's interface, spoken by the `openai` package."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request

import openai
import pytest

GREEDY = {"model": "tiny", "temperature": 0, "max_tokens": 12}


def url(server, path: str) -> str:
    return f"http://127.0.0.1:{server.http_port}{path}"


def post(server, path: str, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(url(server, path), body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ids(server, text: str) -> list[int]:
    return server.gateway.tokenizer.encode(text, bos=True)


def test_a_completion(openai_client, server):
    done = openai_client.completions.create(prompt="def add(", **GREEDY)
    (choice,) = done.choices
    assert done.object == "text_completion" and done.id.startswith("cmpl-") and done.model == "tiny"
    assert choice.text and choice.finish_reason == "length" and choice.index == 0 and choice.logprobs is None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(ids(server, "def add(")), 12)
    assert done.usage.total_tokens == done.usage.prompt_tokens + 12


def test_a_prompt_is_a_text_a_list_of_texts_or_token_ids(openai_client, server):
    texts = ["def add(", "the quick"]
    alone = [openai_client.completions.create(prompt=text, **GREEDY).choices[0].text for text in texts]
    for prompt in (texts, [ids(server, text) for text in texts]):
        done = openai_client.completions.create(prompt=prompt, **GREEDY)
        assert [(choice.index, choice.text) for choice in done.choices] == list(enumerate(alone))
        assert done.usage.prompt_tokens == sum(len(ids(server, text)) for text in texts)
        assert done.usage.completion_tokens == 24
    assert openai_client.completions.create(prompt=ids(server, texts[0]), **GREEDY).choices[0].text == alone[0]


def test_the_stream_is_the_text(openai_client):
    """At temperature 1 a wide model writes many half characters; the pieces still join to the same text."""
    for seed in range(6):
        request = {"model": "tiny", "prompt": "日本", "max_tokens": 120, "temperature": 1, "seed": seed}
        request["extra_body"] = {"top_k": 100}
        whole = openai_client.completions.create(**request)
        chunks = list(openai_client.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
        assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])
        assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
        assert {chunk.usage for chunk in chunks[:-1]} == {None}


def test_a_stream_ends_with_done(server):
    body = json.dumps({"prompt": "a", "max_tokens": 3, "stream": True, "temperature": 0}).encode()
    request = urllib.request.Request(url(server, "/v1/completions"), body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-2])


def test_a_seed_repeats_an_answer_and_n_gives_several(openai_client):
    request = {"model": "tiny", "prompt": "def", "max_tokens": 16, "temperature": 1}
    first, again = (openai_client.completions.create(**request, seed=7).choices[0].text for _ in range(2))
    assert first == again
    three = openai_client.completions.create(**request, seed=7, n=3).choices
    assert [choice.index for choice in three] == [0, 1, 2]
    assert three[0].text == first and len({choice.text for choice in three}) == 3
    streamed = ["", "", ""]
    for chunk in openai_client.completions.create(**request, seed=7, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in three]


def test_stop_ends_the_text_before_it(openai_client):
    request = {**GREEDY, "prompt": "def add(", "max_tokens": 24}
    whole = openai_client.completions.create(**request).choices[0].text
    stop = next(whole[i : i + 2] for i in range(4, len(whole)) if "\ufffd" not in whole[i : i + 2])
    for stops in (stop, ["never in it", stop]):
        choice = openai_client.completions.create(**request, stop=stops).choices[0]
        assert choice.text == whole[: whole.index(stop)] and choice.finish_reason == "stop"
    chunks = openai_client.completions.create(**request, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole[: whole.index(stop)]


def test_logprobs_and_echo(openai_client, server):
    prompt = "def add(left"
    whole = openai_client.completions.create(**{**GREEDY, "max_tokens": 5}, prompt=prompt, logprobs=2, echo=True)
    choice, prompt_ids = whole.choices[0], ids(server, prompt)
    plain = openai_client.completions.create(**{**GREEDY, "max_tokens": 5}, prompt=prompt).choices[0]
    assert choice.text == prompt + plain.text
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(prompt_ids) + 5
    assert "".join(logprobs.tokens[1 : len(prompt_ids)]) == prompt and logprobs.tokens[0] == "<s>"
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    for token, logprob, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True))[
        len(prompt_ids) :
    ]:
        assert max(top, key=top.get) == token and top[token] == pytest.approx(logprob)
    for token, offset in zip(logprobs.tokens[1 : len(prompt_ids)], logprobs.text_offset[1:], strict=False):
        assert choice.text[offset:].startswith(token)
    # Scoring alone: what evaluation harnesses ask for.
    scored = openai_client.completions.create(model="tiny", prompt=prompt, max_tokens=0, logprobs=1, echo=True)
    assert scored.choices[0].text == prompt and scored.usage.completion_tokens == 0
    assert scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: len(prompt_ids)]


def test_streamed_logprobs_and_echo_join_to_the_whole(openai_client):
    request = {**GREEDY, "prompt": "été", "logprobs": 1, "echo": True}
    whole = openai_client.completions.create(**request).choices[0]
    tokens, offsets, text = [], [], ""
    for chunk in openai_client.completions.create(**request, stream=True):
        text += chunk.choices[0].text
        if chunk.choices[0].logprobs:
            tokens += chunk.choices[0].logprobs.tokens
            offsets += chunk.choices[0].logprobs.text_offset
    assert (text, tokens, offsets) == (whole.text, whole.logprobs.tokens, whole.logprobs.text_offset)


def test_chat(openai_client, server):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def add("}]
    request = {"model": "tiny", "messages": messages, "temperature": 0}
    done = openai_client.chat.completions.create(**request, max_completion_tokens=9, logprobs=True, top_logprobs=2)
    (choice,) = done.choices
    assert done.object == "chat.completion" and choice.message.role == "assistant" and choice.finish_reason == "length"
    assert done.usage.completion_tokens == 9 and len(choice.logprobs.content) == 9
    for token in choice.logprobs.content:
        assert token.top_logprobs[0].token == token.token and token.logprob <= 0
    content = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    assert content.decode(errors="replace") == choice.message.content
    chunks = list(openai_client.chat.completions.create(**request, max_tokens=9, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    # The conversation is what the tokenizer's template makes of it, and nothing else.
    prompt = server.gateway.tokenizer.encode_chat(messages)
    assert done.usage.prompt_tokens == len(prompt)
    same = openai_client.completions.create(**{**GREEDY, "max_tokens": 9}, prompt=prompt)
    assert same.choices[0].text == choice.message.content


def test_a_chat_answer_ends_where_the_template_ends_a_turn(openai_client, server):
    end = server.gateway.tokenizer.special_tokens["<|im_end|>"]
    assert server.gateway.chat_stop_ids == (end,)
    request = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 900, "temperature": 1}
    answers = [
        openai_client.chat.completions.create(
            **request, seed=seed, extra_body={"ignore_eos": True, "top_k": 50}
        ).choices[0]
        for seed in range(8)
    ]
    assert "stop" in {answer.finish_reason for answer in answers}
    assert not any("<|im_end|>" in answer.message.content for answer in answers)


def test_messages_may_come_in_parts_and_from_a_developer(openai_client):
    parts = [{"type": "text", "text": "def "}, {"type": "text", "text": "add("}]
    one = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    other = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def add("}]
    texts = [
        openai_client.chat.completions.create(messages=m, **GREEDY).choices[0].message.content for m in (one, other)
    ]
    assert texts[0] == texts[1]


def test_chat_without_a_template_is_a_clear_400(variant, connect_openai, plain_tokenizer):
    client = connect_openai(variant(tokenizer=plain_tokenizer))
    with pytest.raises(openai.BadRequestError, match="no chat template; use /v1/completions"):
        client.chat.completions.create(model="variant", messages=[{"role": "user", "content": "a"}])
    assert client.completions.create(model="variant", prompt="a", max_tokens=2).choices


@pytest.mark.parametrize(
    "fields, param, words",
    [
        ({"temprature": 1}, "temprature", "not a field this server knows"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"prompt": {"a": 1}}, "prompt", "a string, a list of strings"),
        ({"prompt": [1, "a"]}, "prompt", "a string, a list of strings"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [10**9]}, None, "not in the vocabulary"),
        ({"prompt": "x" * 1000}, None, "at most 256 are accepted"),
        ({"prompt": "x" * 10**7}, "prompt", "10000000 characters, more than"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 5}, "prompt", "more than the server queues"),
        ({"logprobs": 6}, None, "between 0 and 5"),
        ({"stop": [""]}, None, "stop string is empty"),
        ({"presence_penalty": 1}, None, "presence_penalty is not supported"),
        ({"best_of": 2}, None, "best_of is not supported"),
    ],
)
def test_a_bad_request_has_openais_error_body(server, fields, param, words):
    status, body = post(server, "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 2, **fields}).encode())
    assert status == 400 and set(body) == {"error"}
    assert body["error"]["type"] == "invalid_request_error" and words in body["error"]["message"]
    assert body["error"]["param"] == param


def test_settings_that_ask_for_nothing_are_accepted(openai_client):
    request = {**GREEDY, "presence_penalty": 0, "frequency_penalty": 0, "user": "me", "best_of": 1, "logit_bias": {}}
    assert openai_client.completions.create(prompt="a", **request).choices


def test_other_errors_have_openais_shape_too(openai_client, server):
    assert post(server, "/v1/completions", b"{")[0] == 400
    assert "error" in post(server, "/v1/completions", b"[]")[1]
    assert post(server, "/v1/embeddings", b"{}")[0] == 404
    status, body = post(server, "/v1/completions", b'{"prompt": "' + b"x" * 16 * 2**20)
    assert status == 413 and "longer than" in body["error"]["message"]
    with pytest.raises(openai.NotFoundError, match="served here") as raised:
        openai_client.completions.create(model="gpt", prompt="a")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        openai_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}], top_logprobs=2, logprobs=False
        )
    with pytest.raises(openai.BadRequestError, match="text only"):
        openai_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        )


def test_models_and_health(openai_client, server):
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").owned_by == "maxllm"
    for path in ("/health", "/health/live"):
        with urllib.request.urlopen(url(server, path), timeout=10) as response:
            assert response.status == 200


def test_metrics_have_vllms_names_and_count(openai_client, server):
    from prometheus_client.parser import text_string_to_metric_families

    def scrape() -> dict[str, float]:
        with urllib.request.urlopen(url(server, "/metrics"), timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        return {
            sample.name
            + "".join(sample.labels[k] for k in ("le", "finished_reason") if k in sample.labels): sample.value
            for family in families
            for sample in family.samples
        }

    before = scrape()
    openai_client.completions.create(prompt="def add(", **GREEDY)
    after = scrape()
    grown = {name: after[name] - before[name] for name in after}
    assert grown["vllm:generation_tokens_total"] == 12
    assert grown["vllm:prompt_tokens_total"] == len(ids(server, "def add("))
    assert grown["vllm:request_success_totallength"] == 1
    for histogram in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert grown[f"vllm:{histogram}_seconds_count"] == 1
        assert grown[f"vllm:{histogram}_seconds_bucket+Inf"] == 1
        assert after[f"vllm:{histogram}_seconds_sum"] >= before[f"vllm:{histogram}_seconds_sum"]
    assert grown["vllm:inter_token_latency_seconds_count"] == 11
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert 0 <= after["vllm:kv_cache_usage_perc"] <= 1
    assert not any(math.isnan(value) for value in after.values())
