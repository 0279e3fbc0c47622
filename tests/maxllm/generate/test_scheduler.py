"""Many requests at once: each gets what it would get alone, and nobody pays for another's failure."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time

import jax
import numpy as np
import pytest

from maxllm.config.serve import SchedulerConfig
from maxllm.generate.handle import join
from maxllm.generate.request import InvalidRequest, QueueFull, Request, SamplingParams, Unavailable
from maxllm.generate.scheduler import Scheduler

GREEDY = SamplingParams(temperature=0)
FOREVER = 80  # tokens; as good as


def ask(prompt, max_tokens=8, sampling=GREEDY, **options) -> Request:
    return Request(tuple(prompt), max_tokens, sampling, **{"ignore_eos": True, **options})


@pytest.fixture
def slowly(engine, monkeypatch):
    """A step takes long enough for what a test does meanwhile: FOREVER is a second or two."""
    generate = engine.generate
    monkeypatch.setattr(engine, "generate", lambda *args, **bounds: (time.sleep(0.02), generate(*args, **bounds))[1])


def test_greedy_text_is_the_training_models_token_for_token_alone_and_in_a_full_batch(
    scheduler, prompts, greedy, tokenizer
):
    expected = [greedy(prompt, 24) for prompt in prompts]
    alone = scheduler.submit(ask(prompts[0], 24)).result()
    assert alone.token_ids == expected[0]
    # Nine requests on four slots, each coming and going at its own time.
    handles = [scheduler.submit(ask(prompt, 6 + 2 * i)) for i, prompt in enumerate(prompts)]
    for i, handle in enumerate(handles):
        done = handle.result()
        assert done.token_ids == expected[i][: 6 + 2 * i]
        assert done.text == tokenizer.decode(done.token_ids) and done.finish_reason == "length"
        assert done.usage == (len(prompts[i]), 6 + 2 * i)


def test_a_seed_gives_the_same_text_alone_and_in_any_company(scheduler, prompts):
    def draw(seed):
        return ask(prompts[3], 16, SamplingParams(temperature=1.5, top_k=40, top_p=0.95, seed=seed))

    alone = [scheduler.submit(draw(seed)).result().token_ids for seed in (1, 2)]
    assert alone[0] != alone[1]
    company = [scheduler.submit(ask(prompt, 30, SamplingParams())) for prompt in prompts[:3]]
    together = [scheduler.submit(draw(seed)) for seed in (2, 1)]
    assert [handle.result().token_ids for handle in together] == alone[::-1]
    assert all(handle.result().finish_reason == "length" for handle in company)


def test_a_seeded_text_goes_on_as_it_was_when_asked_again_from_its_middle(scheduler, prompts):
    sampling = SamplingParams(temperature=1.2, seed=9)
    whole = scheduler.submit(ask(prompts[3], 16, sampling)).result().token_ids
    rest = scheduler.submit(ask((*prompts[3], *whole[:6]), 10, sampling)).result().token_ids
    assert rest == whole[6:]


def test_eos_and_stop_tokens_end_without_being_part_of_the_text(scheduler, prompts, greedy):
    tokens = greedy(prompts[2], 10)
    stop = tokens[6]
    at = tokens.index(stop)
    done = scheduler.submit(ask(prompts[2], 10, stop_token_ids=(stop,))).result()
    assert (done.token_ids, done.finish_reason, done.stop_reason) == (tokens[:at], "stop", stop)
    assert done.usage.completion_tokens == at + 1
    assert scheduler.drain(10)  # the step that was under way when the stop was seen adds nothing
    assert sum(scheduler.stats.finished.values()) == 1 and scheduler.stats.generation_tokens == at + 1


def test_a_stop_string_ends_the_text_before_it(scheduler, prompts, greedy, tokenizer):
    text = tokenizer.decode(greedy(prompts[5], 30))
    middle = len(text) // 2
    stop = next(text[i : i + 4] for i in range(middle, len(text)) if "\ufffd" not in text[i : i + 4])
    done = scheduler.submit(ask(prompts[5], 30, stop=("never in there", stop))).result()
    assert done.text == text[: text.index(stop)]
    assert (done.finish_reason, done.stop_reason) == ("stop", stop)


def test_logprobs_and_echo_are_the_models_own(scheduler, prompts, forward):
    prompt = prompts[6]
    done = scheduler.submit(ask(prompt, 5, logprobs=2, echo=True)).result()
    ids = [*prompt, *done.token_ids]
    expected = np.asarray(jax.nn.log_softmax(forward(ids)))
    everything = [*done.prompt_logprobs, *done.logprobs]
    assert [entry.token_id for entry in everything] == ids
    assert everything[0].logprob is None
    for i, entry in enumerate(everything[1:]):
        assert entry.logprob == pytest.approx(expected[i, entry.token_id], abs=2e-5)
        assert [token for token, _ in entry.top] == np.argsort(-expected[i])[:2].tolist()


def test_a_prompt_can_be_scored_and_not_continued(scheduler, prompts, tokenizer):
    done = scheduler.submit(ask(prompts[7], 0, logprobs=1, echo=True)).result()
    assert done.token_ids == () and done.finish_reason == "length" and done.usage == (len(prompts[7]), 0)
    assert done.prompt_text == tokenizer.decode(prompts[7]) and len(done.prompt_logprobs) == len(prompts[7])
    assert scheduler.submit(ask(prompts[7], 1)).result().usage.completion_tokens == 1


def test_cancelling_frees_the_slot_for_who_waits(slowly, scheduler, prompts):
    running = [scheduler.submit(ask(prompts[0], FOREVER)) for _ in range(4)]
    waiting = scheduler.submit(ask(prompts[1], 2))
    first = [next(handle.events()) for handle in running]  # leaving the iterator cancels
    assert all(event.finish_reason is None for event in first)
    assert waiting.result().finish_reason == "length"
    for handle in running:
        assert handle.result().finish_reason == "cancelled"
    assert scheduler.stats.finished["cancelled"] == 4
    assert scheduler.drain(10)
    assert not np.asarray(scheduler._state.remaining).any()  # the device was told as well


def test_leaving_an_async_stream_cancels(slowly, scheduler, prompts):
    async def main():
        handle = scheduler.submit(ask(prompts[0], FOREVER))
        async for _ in handle:
            break
        cancelled = scheduler.submit(ask(prompts[0], FOREVER))
        task = asyncio.create_task(cancelled.aresult())
        await asyncio.sleep(0.05)
        task.cancel()
        others = [scheduler.submit(ask(prompt, 6)) for prompt in prompts[:6]]
        done = await asyncio.gather(*[other.aresult() for other in others])
        return [completion.usage.completion_tokens for completion in done]

    assert asyncio.run(main()) == [6] * 6
    assert scheduler.drain(10) and scheduler.stats.finished["cancelled"] == 2


def test_a_full_queue_refuses_and_recovers(slowly, engine, tokenizer, prompts):
    with Scheduler(engine, tokenizer, SchedulerConfig(queue=2)) as scheduler:
        running = [scheduler.submit(ask(prompts[0], FOREVER)) for _ in range(2)]
        accepted, refused = [], 0
        for _ in range(20):
            try:
                accepted.append(scheduler.submit(ask(prompts[0], FOREVER)))
            except QueueFull:
                refused += 1
        assert refused and scheduler.stats.refused == refused
        for handle in (*running, *accepted):
            handle.cancel()
            assert handle.result().finish_reason in ("cancelled", "length")
        assert scheduler.submit(ask(prompts[0], 2)).result().finish_reason == "length"


def test_a_deadline_ends_a_request_running_or_waiting(slowly, scheduler, prompts):
    running = scheduler.submit(ask(prompts[0], FOREVER, deadline_seconds=0.5))
    hogs = [scheduler.submit(ask(prompts[0], FOREVER)) for _ in range(3)]
    waiting = [scheduler.submit(ask(prompts[0], FOREVER, deadline_seconds=0.01)) for _ in range(2)][1].result()
    assert (waiting.finish_reason, waiting.text) == ("deadline", "")
    late = running.result()
    assert late.finish_reason == "deadline" and 0 < late.usage.completion_tokens < FOREVER
    for hog in hogs:
        hog.cancel()


def test_draining_refuses_new_requests_and_finishes_the_accepted(engine, tokenizer, prompts, greedy):
    scheduler = Scheduler(engine, tokenizer, SchedulerConfig())
    with pytest.raises(Unavailable):
        scheduler.submit(ask(prompts[0]))
    scheduler.start()
    handles = [scheduler.submit(ask(prompt, 12)) for prompt in prompts[:7]]
    assert scheduler.drain(30)
    assert not scheduler.accepting and not scheduler.healthy
    with pytest.raises(Unavailable):
        scheduler.submit(ask(prompts[0]))
    assert [handle.result().token_ids for handle in handles] == [greedy(prompt, 12) for prompt in prompts[:7]]


def test_draining_cancels_what_takes_too_long(slowly, engine, tokenizer, prompts):
    scheduler = Scheduler(engine, tokenizer, SchedulerConfig()).start()
    handles = [scheduler.submit(ask(prompts[0], FOREVER)) for _ in range(8)]
    assert not scheduler.drain(0)
    reasons = {handle.result().finish_reason for handle in handles}
    assert "cancelled" in reasons and reasons <= {"cancelled", "length"}


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (dict(prompt=()), "the prompt is empty"),
        (dict(prompt=(1, 2, 10**6)), "token id 1000000 in the prompt is not in the vocabulary"),
        (dict(prompt=(1, -1)), "token id -1"),
        (dict(prompt=(1, 2**80)), "must be integers"),
        (dict(prompt=("a",)), "must be integers"),
        (dict(prompt=(1,) * 97), "97 tokens; at most 96"),
        (dict(prompt=(1,) * 96), "leave no room"),
        (dict(max_tokens=-1), "max_tokens"),
        (dict(sampling=SamplingParams(temperature=float("nan"))), "temperature"),
        (dict(sampling=SamplingParams(top_p=0)), "top_p"),
        (dict(sampling=SamplingParams(top_k=-1)), "top_k"),
        (dict(stop=("",)), "stop string"),
        (dict(logprobs=6), "between 0 and 5"),
        (dict(deadline_seconds=0), "deadline_seconds"),
    ],
)
def test_a_wrong_request_is_refused_in_a_sentence(scheduler, wrong, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        scheduler.submit(Request(**{"prompt": (1, 2), **wrong}))


def test_an_answer_is_cut_to_what_fits(scheduler, prompts):
    assert scheduler.submit(ask(prompts[8], 10**9)).result().usage == (40, 96 - 40)


class Saboteur:
    """A tokenizer that fails while detokenising one given token."""

    def __init__(self, tokenizer, token):
        self._tokenizer, self._token = tokenizer, token
        self.vocab_size, self.eos_id, self.decode = tokenizer.vocab_size, tokenizer.eos_id, tokenizer.decode

    def byte_stream(self):
        stream = self._tokenizer.byte_stream()
        push = stream.push

        def fail(token):
            if token == self._token:
                raise KeyError("no such piece")
            return push(token)

        stream.push = fail
        return stream


def test_a_failing_detokeniser_fails_its_request_alone(engine, tokenizer, prompts, greedy):
    expected = [greedy(prompt, 10) for prompt in prompts[:4]]
    poison = next(token for token in expected[1][2:] if token not in {*expected[0], *expected[2], *expected[3]})
    with Scheduler(engine, Saboteur(tokenizer, poison), SchedulerConfig()) as scheduler:
        results = [handle.result() for handle in [scheduler.submit(ask(prompt, 10)) for prompt in prompts[:4]]]
        assert [result.finish_reason for result in results] == ["length", "error", "length", "length"]
        assert "no such piece" in results[1].error and "no such piece" not in results[1].text
        assert [results[i].token_ids for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_a_failing_prefill_fails_its_request_alone(scheduler, prompts, greedy, monkeypatch):
    prefill = scheduler.engine.prefill

    def fail_once(**arguments):
        if arguments["true_length"] == len(prompts[2]):
            raise RuntimeError("out of memory, say")
        return prefill(**arguments)

    monkeypatch.setattr(scheduler.engine, "prefill", fail_once)
    results = [handle.result() for handle in [scheduler.submit(ask(prompt, 10)) for prompt in prompts[:4]]]
    assert [result.finish_reason for result in results] == ["length", "length", "error", "length"]
    assert results[3].token_ids == greedy(prompts[3], 10) and scheduler.healthy


def test_a_failing_step_fails_those_in_it_and_the_engine_goes_on(scheduler, prompts, greedy, monkeypatch):
    generate, calls = scheduler.engine.generate, []

    def fail_once(params, state, **bounds):
        calls.append(bounds)
        if len(calls) == 5:
            for leaf in jax.tree.leaves(state):
                leaf.delete()  # as a failed step would: its state was donated
            raise RuntimeError("device lost, say")
        return generate(params, state, **bounds)

    monkeypatch.setattr(scheduler.engine, "generate", fail_once)
    doomed = [scheduler.submit(ask(prompt, 40)) for prompt in prompts[:2]]
    assert [handle.result().finish_reason for handle in doomed] == ["error", "error"]
    assert scheduler.submit(ask(prompts[3], 10)).result().token_ids == greedy(prompts[3], 10)
    assert scheduler.healthy and scheduler.stats.finished["error"] == 2


def test_an_engine_that_cannot_be_set_up_again_says_so_to_all(engine, tokenizer, prompts, monkeypatch):
    scheduler = Scheduler(engine, tokenizer, SchedulerConfig()).start()

    submitted = threading.Event()

    def broken(*_, **__):
        submitted.wait()
        raise RuntimeError("broken for good")

    monkeypatch.setattr(engine, "generate", broken)
    monkeypatch.setattr(engine, "init_decode_state", broken)
    handles = [scheduler.submit(ask(prompt, 10)) for prompt in prompts[:6]]
    submitted.set()
    for handle in handles:
        assert handle.result().finish_reason == "error"
    scheduler.close()
    assert not scheduler.healthy and not scheduler.accepting
    with pytest.raises(Unavailable):
        scheduler.submit(ask(prompts[0]))


@pytest.mark.parametrize("tokens", [1, 20])
def test_decoding_goes_on_while_prompts_queue(engine, tokenizer, prompts, monkeypatch, tokens):
    """Between two tokens of a running answer: one prompt, or as many as have no more than `prefill_tokens`."""
    calls = []

    def record(name, what):
        function = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *args, **given: (calls.append(what(given)), function(*args, **given))[1]
        )

    record("prefill", lambda given: given["true_length"])
    record("generate", lambda given: 0)
    with Scheduler(engine, tokenizer, SchedulerConfig(prefill_tokens=tokens)) as scheduler:
        handles = [scheduler.submit(ask(prompt, 9)) for prompt in prompts]
        for handle in handles:
            handle.result()
    assert [length for length in calls if length] == [len(prompt) for prompt in prompts]
    between = [list(group) for prefill, group in itertools.groupby(calls, bool) if prefill]
    assert all(len(lengths) == 1 or sum(lengths) <= tokens for lengths in between)
    if tokens == 1:
        assert len(between) == len(prompts)


def test_requests_may_come_from_many_threads(scheduler, prompts, greedy):
    expected = [greedy(prompt, 5) for prompt in prompts]
    wrong = []

    def client(i):
        for _ in range(3):
            if scheduler.submit(ask(prompts[i], 5)).result().token_ids != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_stats_add_up(scheduler, prompts):
    results = [handle.result() for handle in [scheduler.submit(ask(prompt, 10)) for prompt in prompts]]
    assert scheduler.drain(10)
    stats = scheduler.stats
    assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0)
    assert stats.prompt_tokens == sum(map(len, prompts)) == stats.request_prompt_tokens.sum
    assert stats.generation_tokens == sum(result.usage.completion_tokens for result in results) == 90
    assert stats.finished["length"] == stats.end_to_end.count == stats.time_to_first_token.count == 9
    assert stats.inter_token_latency.count == 90 - 9
    assert stats.queue_time.cumulative()[-1] == ("+Inf", 9)
    assert 0 < stats.host_seconds < stats.step_seconds


def test_times_are_in_order(scheduler, prompts):
    before = time.monotonic()
    handle = scheduler.submit(ask(prompts[0], 4))
    handle.result()
    times = handle.times
    moments = [before, times.submitted, times.scheduled, times.first_token, times.last_token, times.finished]
    assert moments == sorted(moments)


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_whatever_comes_every_request_ends_once_and_right(engine, tokenizer, prompts, greedy, count):
    """Four impatient clients with every kind of request; greedy answers that ended by themselves are the model's."""
    expected = [greedy(prompt, 30) for prompt in prompts]
    problems: list[str] = []

    def client(seed):
        chance = random.Random(seed)
        for _ in range(count // 4):
            which, limit, kind = chance.randrange(len(prompts)), chance.randint(0, 30), chance.randrange(6)
            options = {
                0: {"sampling": SamplingParams(temperature=1.0, top_k=chance.randint(0, 9))},
                1: {"stop": (chance.choice("aeio "),)},
                2: {"logprobs": chance.randint(0, 5), "echo": True},
                3: {"deadline_seconds": chance.choice((0.001, 0.01))},
            }.get(kind, {})
            try:
                handle = scheduler.submit(ask(prompts[which], limit, **options))
            except QueueFull:
                continue
            if kind == 4:
                time.sleep(chance.random() * 0.01)
                handle.cancel()
            events = list(handle.events())
            done = join(events)
            if done.finish_reason == "error" or sum(event.finish_reason is not None for event in events) != 1:
                problems.append(f"{kind}: {done}")
            if kind != 0 and done.token_ids != expected[which][: len(done.token_ids)]:
                problems.append(f"{kind}: {done.token_ids} is not {expected[which]}")
            if handle._events:
                problems.append("something came after the end")

    with Scheduler(engine, tokenizer, SchedulerConfig(queue=2)) as scheduler:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert scheduler.drain(10) and not problems
        stats = scheduler.stats
        assert sum(stats.finished.values()) == stats.end_to_end.count == 4 * (count // 4) - stats.refused
        assert not np.asarray(scheduler._state.remaining).any()
