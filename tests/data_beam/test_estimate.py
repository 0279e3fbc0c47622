"""What an estimate says of a run is what the run then does, within the bounds it gave."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_beam.estimate import BYTES_PER_TOKEN, estimate, lines
from data_beam.pipeline import curate
from data_beam.shuffled import count_shuffled, shuffled_bytes
from maxllm.config.errors import UserError
from maxllm.config.prices import PricesConfig
from tests.data_beam.test_curation import prose, settings, write_jsonl

PRICES = PricesConfig(vcpu_hour=1, memory_gib_hour=0, memory_gib_per_vcpu=1, shuffle_gib=2, utilisation=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve files of different lengths; every fifth document is too short."""
    folder = tmp_path_factory.mktemp("in")
    number = 0
    for part in range(12):
        records = []
        for _ in range(10 + 3 * part):
            records.append({"text": "too short" if number % 5 == 0 else prose(number)})
            number += 1
        write_jsonl(folder / f"{part:02d}.jsonl", records)
    return [{"format": "jsonl", "paths": [f"{folder}/*.jsonl"], "name": "sea"}], number


def test_the_run_ends_inside_the_bounds(tmp_path, corpus):
    inputs, count = corpus
    config = settings(tmp_path / "out", inputs)
    result = estimate(config, PRICES, documents=120)
    report = curate(config)
    low, _, high = result["read"]
    assert low <= count == report["read"] <= high and high - low < count
    low, _, high = result["kept_before_dedup"]
    assert low <= report["kept"] <= high
    low, best, high = result["stages"]["quality"]
    assert low < 0.2 < high and low < best < high
    low, _, high = result["text_bytes"]
    assert low <= report["kept_bytes"] <= high
    assert result["tokens"][1] == result["text_bytes"][1] / BYTES_PER_TOKEN
    assert result["sampled"]["pieces"] == {"sea": [8, 12]} and not (tmp_path / "out" / ".staging").exists()


def test_what_is_read_whole_is_known(tmp_path, corpus):
    inputs, _ = corpus
    few = [{**inputs[0], "paths": [path for path in [inputs[0]["paths"][0].replace("*", "0[0-3]")]]}]
    config = settings(tmp_path / "out", few)
    result = estimate(config, PRICES, documents=10_000)
    report = curate(config)
    assert result["read"] == [report["read"]] * 3 and result["kept_before_dedup"] == [report["kept"]] * 3


def test_larger_inputs_scale_and_cost_what_their_hours_and_bytes_cost(tmp_path, corpus):
    inputs, count = corpus
    config = settings(tmp_path / "out", inputs)
    once = estimate(config, PRICES, documents=60)
    more = estimate(config, PRICES, documents=60, total_bytes=1000 * once["input_bytes"])
    assert more["read"] == pytest.approx([1000 * value for value in once["read"]])
    assert more["dollars"][1] == pytest.approx(more["cpu_hours"][1] / 0.5 + 2 * more["shuffled_gib"][1])
    assert any(line.startswith("Dataflow") for line in lines(more))


def test_shuffled_bytes_are_those_of_the_encoded_pairs():
    pairs = [(f"k{n % 3}", "x" * n) for n in range(50)]
    pipeline = beam.Pipeline(runner=FnApiRunner())
    grouped = pipeline | beam.Create(pairs, reshuffle=False).with_output_types(tuple[str, str]) | beam.GroupByKey()
    assert grouped is not None
    count_shuffled(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    assert shuffled_bytes(result) == sum(1 + len(key) + len(value) for key, value in pairs)  # a length, then both


def test_nothing_to_scale_by_and_nothing_to_read_are_sentences(tmp_path):
    with pytest.raises(UserError, match="--at scales"):
        estimate(settings(tmp_path, [{"format": "python-source", "limit": 2}]), PRICES, documents=2, total_bytes=1e12)
    (tmp_path / "empty.jsonl").write_text("")
    result = estimate(settings(tmp_path, [{"format": "jsonl", "paths": [f"{tmp_path}/empty.jsonl"]}]), PRICES)
    assert result["read"] == [0, 0, 0] and json.dumps(result)
