"""The reverse check names the items that stand in a training set, the same ones however the documents lie in files."""

from __future__ import annotations

import gzip
import json
import sys

import pytest

from data_beam.decontaminate.reverse import contamination
from data_beam.decontaminate.tasks import with_tasks
from data_beam.text.words import normalised_words
from maxllm.config.decontaminate import ContaminationConfig, DecontaminationConfig, ItemsConfig
from maxllm.config.errors import UserError

QUESTIONS = [f"question {n} asks " + " ".join(f"w{n}x{i}" for i in range(20)) for n in range(12)]


def write(path, records) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w")
    with opened as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return str(path)


def document(number: int, text: str) -> dict:
    return {"id": f"d{number:03}", "text": text, "source": "web", "added": "2024-01-01T00:00:00Z"}


def read(path) -> list[dict]:
    with open(path) as stream:
        return [json.loads(line) for line in stream]


def slow(documents: list[dict], question: str, n: int = 13) -> tuple[float, int, str | None]:
    """(largest fraction of the question's n-grams in one document, documents at 0.8 or more, the first best one)."""

    def grams(text: str) -> set:
        words = normalised_words(text)
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    wanted = grams(question)
    fractions = sorted((-len(wanted & grams(each["text"])) / len(wanted), each["id"]) for each in documents)
    return -fractions[0][0], sum(-fraction >= 0.8 for fraction, _ in fractions), fractions[0][1]


def check(tmp_path, files: list[list[dict]], name: str) -> tuple[dict, ContaminationConfig]:
    paths = [write(tmp_path / name / f"{n}.jsonl.gz", part) for n, part in enumerate(files)]
    items = write(tmp_path / "quiz.jsonl", [{"question": q, "answer": "5"} for q in [*QUESTIONS, "too short"]])
    config = ContaminationConfig(
        documents=paths, items=ItemsConfig(paths=[items]), output=str(tmp_path / f"{name}-out")
    )
    return contamination(config), config


def test_planted_items_are_named_with_their_best_document(tmp_path):
    words = [question.split() for question in QUESTIONS]
    documents = [document(n, f"page {n} about nothing much") for n in range(30)]
    documents += [
        document(30, f"a whole one: {QUESTIONS[3].upper()}!"),
        document(31, "most of two: " + " ".join(words[3][:-2]) + " -- " + " ".join(words[5][2:])),
        document(32, f"again {QUESTIONS[5]}"),
        document(33, "half of one " + " ".join(words[7][:16])),
    ]
    report, config = check(tmp_path, [documents[:10], documents[10:31], documents[31:]], "some")
    row = report["benchmarks"]["quiz"]
    assert (row["items"], row["too_short"], row["dirty"], row["share"]) == (13, 1, 2, 2 / 12)
    assert report["documents"] == 34 and report["failed"]["count"] == 0
    for item in report["dirty"]:
        fraction, many, best = slow(documents, QUESTIONS[item["line"] - 1])
        assert (item["fraction"], item["documents"], item["document"]) == (fraction, many, best)
        assert item["benchmark"] == "quiz" and item["key"] == "question" and item["source"] == "web"
        text = next(each["text"] for each in documents if each["id"] == best)
        assert [text[span["start"] : span["end"]] for span in item["spans"]] == [s["text"] for s in item["spans"]]
    assert row["max_fraction"] == 1.0
    assert [record["question"] for record in read(row["files"]["dirty"])] == [QUESTIONS[3], QUESTIONS[5]]
    clean = read(row["files"]["clean"])
    assert [record["question"] for record in clean] == [q for n, q in enumerate(QUESTIONS) if n not in (3, 5)]
    assert clean[0] == {"question": QUESTIONS[0], "answer": "5"}  # the item's own record: it can be scored again
    assert json.loads((tmp_path / "some-out" / "contamination.json").read_text()) == report
    # The same documents in other files, the other way round.
    again, _ = check(tmp_path, [documents[::-1]], "other")
    assert again["dirty"] == report["dirty"]


def test_documents_that_cannot_be_read_are_counted(tmp_path):
    good = write(tmp_path / "a.jsonl", [document(0, QUESTIONS[0])])
    (tmp_path / "b.jsonl").write_text('{"id": "x"}\nnot json\n')
    items = write(tmp_path / "quiz.jsonl", [{"question": QUESTIONS[0]}])
    config = ContaminationConfig(
        documents=[good, str(tmp_path / "b.jsonl")], items=ItemsConfig(paths=[items]), output=str(tmp_path / "out")
    )
    report = contamination(config)
    assert report["failed"]["count"] == 2 and report["documents"] == 1
    assert report["benchmarks"]["quiz"]["dirty"] == 1


def test_what_is_missing_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="documents is empty"):
        contamination(ContaminationConfig())
    with pytest.raises(UserError, match="items.paths is empty"):
        contamination(ContaminationConfig(documents=["x"]))
    config = ContaminationConfig(documents=[str(tmp_path / "no")], items=ItemsConfig(paths=["x"]))
    with pytest.raises(UserError, match="^documents: nothing matches"):
        contamination(config)


def test_tasks_become_item_files_that_workers_can_read(tmp_path):
    records = [{"question": QUESTIONS[0], "url": "https://a.org/x", "choices": ["a", "b"], "n": 3}]
    config = DecontaminationConfig(tasks=["quiz", "local"], data_files={"local": write(tmp_path / "l.jsonl", records)})
    config = with_tasks(config, str(tmp_path), {"quiz": records}.__getitem__)
    assert config.tasks == [] and [path.rsplit("/", 1)[1] for path in config.paths] == ["quiz.jsonl", "local.jsonl"]
    assert [read(path) for path in config.paths] == [[{"text": [QUESTIONS[0]], "record": records[0]}]] * 2
    reverse = ContaminationConfig(
        documents=[write(tmp_path / "d.jsonl", [document(0, QUESTIONS[0])])], items=config, output=str(tmp_path / "out")
    )
    files = contamination(reverse)["benchmarks"]["quiz"]["files"]
    assert read(files["dirty"]) == records and read(files["clean"]) == []  # the task's own records


@pytest.mark.slow  # lm-eval reads all its tasks first
def test_a_task_is_loaded_through_lm_evals_own_registry(tmp_path, monkeypatch):
    """From the data set's cache, as where it was downloaded once."""
    pytest.importorskip("lm_eval")
    import datasets

    from maxllm.eval.task_items import task_records

    rows = [{"question": QUESTIONS[n], "answer": f"#### {n}"} for n in range(3)]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    place = tmp_path / "openai___gsm8k" / "main" / "0.0.0" / "abcdef"
    place.mkdir(parents=True)
    info = datasets.DatasetInfo(dataset_name="gsm8k", config_name="main", version="0.0.0", splits={})
    for split in ("train", "test"):
        data = datasets.Dataset.from_list(rows)
        data.save_to_disk(tmp_path / "made" / split)
        (tmp_path / "made" / split / "data-00000-of-00001.arrow").rename(place / f"gsm8k-{split}.arrow")
        info.splits[split] = datasets.SplitInfo(name=split, num_examples=3, dataset_name="gsm8k")
        info.features = data.features
    info.write_to_directory(str(place))
    assert task_records("gsm8k") == rows
    with pytest.raises(UserError, match="tasks: lm-eval cannot load no_such_task"):
        task_records("no_such_task")


def test_without_lm_eval_a_task_is_a_sentence(monkeypatch):
    from maxllm.eval.task_items import task_records

    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match=r"pip install 'maxllm\[eval\]'"):
        task_records("gsm8k")


def test_math_500_is_found_in_the_math_test_set_and_gsm8k_is_not(shared_data, tmp_path):
    """The 500 problems are a sample of the 5,000: each one's statement stands in its document, whole."""
    with gzip.open(shared_data / "corpus" / "math_MATH_test_with_solutions.jsonl.gz", "rt") as stream:
        problems = [json.loads(line) for line in stream]
    with gzip.open(shared_data / "corpus" / "c4_demo.jsonl.gz", "rt") as stream:
        pages = [json.loads(line)["text"] for line in stream]
    texts = [*pages, *(f"{problem['context']}\n{problem['chain_of_thought']}" for problem in problems)]
    write(tmp_path / "corpus" / "a.jsonl.gz", [document(n, text) for n, text in enumerate(texts)])
    evals = shared_data / "eval"
    config = ContaminationConfig(
        documents=[str(tmp_path / "corpus")],
        items=ItemsConfig(
            paths=[str(evals / name) for name in ("math_harness/math_oai.jsonl.gz", "gsm8k/test.jsonl.gz")],
            text_keys=["problem", "question"],
        ),
        output=str(tmp_path / "out"),
    )
    report = contamination(config)
    math, gsm8k = report["benchmarks"]["math_oai"], report["benchmarks"]["test"]
    assert math["items"] == 500 and math["too_short"] == 3 and math["dirty"] == 497, math
    assert gsm8k["items"] == 1319 and gsm8k["dirty"] == 0
