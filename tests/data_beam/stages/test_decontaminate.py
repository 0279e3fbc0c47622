"""Planted evaluation items are found at the asked share and not below it; the index agrees with its slow twin."""

import gzip
import json
import random

import pytest

from data_beam.document import Document, Drop
from data_beam.stages.decontaminate import Decontaminate, Index, Item, read_items
from data_beam.text.signals import Signals
from data_beam.text.words import normalised_words
from maxllm.config.decontaminate import DecontaminationConfig
from maxllm.config.errors import UserError


def slow_fraction(text: str, item: str, n: int) -> float:
    """Share of the item's distinct n-grams in the text; a shorter item is there whole or not."""
    words, wanted = normalised_words(text), normalised_words(item)
    n = min(n, len(wanted))
    grams = {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}
    needed = {tuple(wanted[i : i + n]) for i in range(len(wanted) - n + 1)}
    return len(needed & grams) / len(needed)


def match(items: list[str], text: str, **settings):
    index = Index([Item(str(i), item) for i, item in enumerate(items)], DecontaminationConfig(**settings))
    return index.match(Signals(text).normalised_hashes)


@pytest.mark.parametrize("seed", range(40))
def test_the_index_agrees_with_its_slow_twin(seed):
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(rng.choice([2, 5, 60]))]
    items = [" ".join(rng.choices(vocabulary, k=rng.randint(3, 40))) for _ in range(12)]
    pieces = []
    for _ in range(6):
        words = rng.choice(items).split()
        for _ in range(rng.choice([0, 0, 1, 3])):
            words[rng.randrange(len(words))] = "edited"
        pieces.append(" ".join(words))
    text = " ".join(pieces)
    ngram = rng.choice([3, 5, 13])
    fractions = [slow_fraction(text, item, ngram) for item in items]
    found = match(items, text, ngram=ngram, min_words=1)
    if max(fractions) < 0.8:
        assert found is None
    else:
        assert found.fraction == fractions[int(found.item)] >= 0.8
        assert found.fraction == max(fractions) or len(items[int(found.item)].split()) < ngram


def test_the_share_is_reached_at_exactly_four_fifths():
    item = " ".join(f"w{i}" for i in range(17))  # five 13-grams
    four, three = item.rsplit(" ", 1)[0], item.rsplit(" ", 2)[0]
    assert match([item], f"before {four} after") == ("0", 0.8)
    assert match([item], f"before {three} after") is None
    assert match([item], f"before {three} after", threshold=0.6) == ("0", 0.6)


def test_case_punctuation_and_line_breaks_hide_nothing():
    item = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
    assert match([item], "x " + item.upper().replace(" ", "\n-- ").replace(",", "") + " y").fraction == 1


def test_shorter_items_match_whole_and_in_order():
    item = "What is the capital of France?"
    assert match([item], "Quiz: what is the capital of France -- Paris").fraction == 1
    assert match([item], "what is the capital city of France") is None
    assert match([item], "France of capital the is what") is None
    assert match(["the answer is 42"], "and the answer is 42 .") is None  # under min_words: everyday words
    assert match(["the answer is 42"], "and the answer is 42 .", min_words=4).fraction == 1


def test_no_items_no_words_no_match():
    assert match([], "some text") is None
    assert match(["one two three four five six"], "") is None


def write(path, rows):
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def test_items_are_named_by_file_line_and_key(tmp_path):
    path = write(tmp_path / "quiz.jsonl.gz", [{"question": "q1", "n": 3}, {"question": "q2", "answer": "a2"}])
    assert list(read_items([path], ["question", "answer"])) == [
        ("quiz.jsonl.gz:1:question", "q1"),
        ("quiz.jsonl.gz:2:question", "q2"),
        ("quiz.jsonl.gz:2:answer", "a2"),
    ]


def test_items_are_found_by_globs_in_order(tmp_path):
    for name in "ba":
        write(tmp_path / f"{name}.jsonl.gz", [{"question": f"from {name}"}])
    assert [item.text for item in read_items([str(tmp_path / "*.gz")], ["question"])] == ["from a", "from b"]
    with pytest.raises(UserError, match="decontamination.paths: nothing matches .*none"):
        list(read_items([str(tmp_path / "none*")], ["question"]))


def test_unreadable_items_are_the_users_error(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", [{"prompt": "x"}])
    with pytest.raises(UserError, match=r"text_keys: no line of .*its keys are \['prompt'\]"):
        list(read_items([path], ["question"]))
    (tmp_path / "b.jsonl").write_text('{"question": "x"}\nnot json\n')
    with pytest.raises(UserError, match=r"b.jsonl line 2 is not JSON"):
        list(read_items([str(tmp_path / "b.jsonl")], ["question"]))
    with pytest.raises(UserError, match="decontamination.paths: .*nowhere"):
        list(read_items([str(tmp_path / "nowhere")], ["question"]))


def test_real_gsm8k_questions_planted_in_real_pages(shared_data):
    """Every planted question is found and named, and not one clean page is lost."""
    test = next((shared_data / "eval" / "gsm8k").glob("*test*"))
    stage = Decontaminate(DecontaminationConfig(paths=[str(test)]))
    with gzip.open(test, "rt") as stream:
        questions = [json.loads(line)["question"] for line in stream]
    with gzip.open(shared_data / "corpus" / "c4_demo.jsonl.gz", "rt") as stream:
        pages = [json.loads(line)["text"] for line in stream]
    for number, page in enumerate(pages):
        clean = Document("1", page, "c4", "2024")
        assert stage(clean) is clean
        question = questions[number * 4]
        half = len(page) // 2
        drop = stage(Document("1", f"{page[:half]}\n{question}\n{page[half:]}", "c4", "2024"))
        assert isinstance(drop, Drop) and drop.reason == "decontamination.ngram_overlap"
        assert drop.value == f"{test.name}:{number * 4 + 1}:question (1.00)"
        words = question.split()
        cut = " ".join(words[: len(words) // 2])
        if len(words) > 40:  # half a question is under four fifths of its n-grams
            assert isinstance(stage(Document("1", f"{page}\n{cut}", "c4", "2024")), Document)
