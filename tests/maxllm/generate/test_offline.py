"""Generating without a server: from Python, and from the command line."""

from __future__ import annotations

import pytest

from maxllm.cli.main import main
from maxllm.config.serve import EngineConfig
from maxllm.convert import hf
from maxllm.generate.offline import complete_texts, generate_texts, local_scheduler
from maxllm.generate.request import SamplingParams

SMALL = EngineConfig(slots=2, prefill_buckets=[96])
PROMPTS = ["def greet(", "", "naïve café, 東京", "the rain"]


@pytest.fixture(scope="module")
def expected(tokenizer, greedy):
    def text(prompt: str, count: int) -> str:
        ids = tokenizer.encode(prompt, bos=True)
        ids = ids if len(ids) <= 96 - count else [ids[0], *ids[len(ids) - (96 - count) + 1 :]]
        drawn = greedy(ids, count)
        return tokenizer.decode(drawn[: drawn.index(tokenizer.eos_id)] if tokenizer.eos_id in drawn else drawn)

    return text


def test_texts_come_back_in_order_and_equal_the_models_own(model, tokenizer, expected):
    texts = generate_texts(model, tokenizer, PROMPTS, max_tokens=10, config=SMALL)
    assert texts == [expected(prompt, 10) for prompt in PROMPTS]


def test_a_prompt_too_long_loses_its_beginning_not_its_bos(model, tokenizer, expected):
    long = "for index in range(10): print(index) " * 10
    with local_scheduler(model, tokenizer, SMALL) as scheduler:
        done = complete_texts(scheduler, tokenizer, [long], max_tokens=12)
    assert [completion.text for completion in done] == [expected(long, 12)]
    assert done[0].usage.prompt_tokens == 96 - 12


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "export"
    hf.save(model, tokenizer, path)
    return str(path)


def test_the_command_streams_prompt_and_continuation(folder, capsys, expected):
    assert main(["generate", folder, "def greet(", "--max-tokens", "12", "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "def greet(" + expected("def greet(", 12) + "\n"
    assert "tokens" in captured.err


def test_a_seed_repeats_and_a_stop_stops(folder, capsys, model, tokenizer):
    arguments = ["generate", folder, "the", "--max-tokens", "20", "--temperature", "1.3", "--seed", "5"]
    texts = []
    for extra in ([], [], ["--seed", "6"]):
        assert main([*arguments, *extra]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    sampling = SamplingParams(temperature=1.3, seed=5)
    assert (
        texts[0]
        == "the" + generate_texts(model, tokenizer, ["the"], max_tokens=20, sampling=sampling, config=SMALL)[0] + "\n"
    )
    stop = next(character for character in texts[0][6:-1] if character.isascii() and character not in texts[0][:6])
    assert main([*arguments, "--stop", stop]) == 0
    assert capsys.readouterr().out == texts[0][: texts[0].index(stop)] + "\n"


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--top-p", "0"], "top_p is 0.0"),
    ],
)
def test_a_wrong_flag_is_a_sentence_and_exit_code_2(folder, capsys, wrong, sentence):
    assert main(["generate", folder, "x", *wrong]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error
