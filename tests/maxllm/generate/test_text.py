"""Nothing is shown that might have to be taken back."""

from __future__ import annotations

import random

import pytest

from maxllm.generate.text import TextStream


def run(tokenizer, ids, stop=()):
    """(texts as released, token ids released, stop)"""
    stream, texts, tokens = TextStream(tokenizer, tuple(stop)), [], []
    for token in ids:
        piece = stream.push(token)
        texts.append(piece.text)
        tokens += piece.token_ids
        if piece.stop is not None:
            return texts, tokens, piece.stop
    piece = stream.flush()
    return [*texts, piece.text], [*tokens, *piece.token_ids], None


def test_characters_cut_into_bytes_come_whole(tokenizer):
    text = "caffè 🙂 北京"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)  # some characters are several tokens
    texts, tokens, _ = run(tokenizer, ids)
    assert "".join(texts) == text and tokens == ids
    assert all("\ufffd" not in piece for piece in texts)


def test_bytes_that_never_become_a_character_are_replaced_at_the_end(tokenizer):
    ids = tokenizer.encode("🙂")[:-1]
    texts, tokens, _ = run(tokenizer, ids)
    assert texts[:-1] == [""] * len(ids) and texts[-1] == "\ufffd" and tokens == ids


def test_stop_text_is_excluded_and_its_beginning_is_never_shown(tokenizer):
    texts, tokens, stop = run(tokenizer, tokenizer.encode("one two<|end|>three"), ["<|end|>", "\n\n"])
    assert ("".join(texts), stop) == ("one two", "<|end|>")
    assert tokenizer.decode(tokens) == "one two"


def test_what_only_looked_like_a_stop_string_is_shown(tokenizer):
    ids = tokenizer.encode("a\nb<|en d|>\n")
    texts, tokens, stop = run(tokenizer, ids, ["<|end|>", "\n\n"])
    assert ("".join(texts), tokens, stop) == ("a\nb<|en d|>\n", ids, None)


def test_a_token_that_reaches_over_the_beginning_of_a_stop_string_stays(tokenizer):
    ids = tokenizer.encode("the lazy dog")
    whole = [tokenizer.decode([token]) for token in ids]
    token = next(piece for piece in whole if len(piece.strip()) >= 3).strip()
    texts, tokens, stop = run(tokenizer, ids, [token[1:]])
    text = "".join(texts)
    assert stop == token[1:] and text == "the lazy dog".split(token[1:])[0]
    assert tokenizer.decode(tokens).startswith(text)


@pytest.mark.parametrize("seed", range(40))
def test_streaming_equals_looking_at_the_whole_text_after_every_character(tokenizer, seed):
    """The slow twin looks for every stop string in everything so far, each time from the beginning."""
    chance = random.Random(seed)
    text = "".join(chance.choice("ab🙂 é") for _ in range(40))
    stops = ["".join(chance.choice("ab🙂 é") for _ in range(chance.randint(2, 5))) for _ in range(2)]
    expected = text
    for end in range(len(text) + 1):
        if cuts := [at for stop in stops if (at := text[:end].find(stop)) >= 0]:
            expected = text[: min(cuts)]
            break
    ids = [token for character in text for token in tokenizer.encode(character)]
    texts, tokens, stop = run(tokenizer, ids, stops)
    assert "".join(texts) == expected and (stop is not None) == bool(cuts)
    assert tokens == [token for character in expected for token in tokenizer.encode(character)]
