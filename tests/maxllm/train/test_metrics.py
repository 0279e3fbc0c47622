"""Each step's numbers are written once, and rates are of steps that have finished."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from maxllm.config.errors import UserError
from maxllm.train.metrics import Display, Pace, Writer, read, resident_bytes


def records(*steps: int) -> list[dict]:
    return [{"step": step, "loss": 1.0 / step, "learning_rate": 0.1} for step in steps]


def test_a_resumed_run_writes_each_step_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.write(records(1, 2, 3, 4, 5))
    writer.close()
    # The kill came while step 6 was being written, and the newest checkpoint is of step 3.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    writer = Writer(tmp_path, resume_step=3)
    writer.write(records(4, 5, 6))
    writer.close()
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_what_is_written_survives_the_process(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.write(records(1))
    # Not closed, not flushed by us: another reader sees it, as it would after a kill.
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
    writer.close()


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    writer = Writer(tmp_path)
    writer.write(records(1, 2))
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content, found = events.read_bytes(), {}
    while content:  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        content = content[12 + length + 4 :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    assert found["loss", 1] == 1.0 and found["loss", 2] == 0.5


def test_weights_and_biases_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install maxllm\[wandb\]"):
        Writer(tmp_path, wandb_project="mine")


def test_pace_does_not_count_what_is_not_a_step() -> None:
    pace = Pace(tokens_per_step=1000, flops_per_token=6e6, peak_flops=1e12)
    time.sleep(0.2)  # compiling
    pace.restart()
    for _ in range(4):
        time.sleep(0.02)
        pace.step()
    block = pace.block()
    assert 0.02 <= block["seconds_per_step"] < 0.1
    assert block["tokens_per_second"] == pytest.approx(1000 / block["seconds_per_step"])
    assert block["mfu"] == pytest.approx(block["tokens_per_second"] * 6e6 / 1e12)
    assert pace.block() == {}


def test_mfu_is_absent_where_the_peak_is_not_known() -> None:
    pace = Pace(tokens_per_step=1000, flops_per_token=6e6, peak_flops=None)
    pace.step()
    assert "mfu" not in pace.block()


def test_a_plain_line_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    with Display(1000, console=console) as display:
        for step in (10, 20):
            display.show(
                {
                    "step": step,
                    "loss": 3.25,
                    "tokens_per_second": 4521.0,
                    "mfu": 0.412,
                    "learning_rate": 3e-4,
                    "gradient_norm": 0.8,
                }
            )
    first, second = out.getvalue().splitlines()
    assert first == "step 10/1000  loss 3.2500  4,521 tok/s  MFU 41.2%  lr 3.00e-04  grad 0.80"
    assert second.startswith("step 20/1000") and second.endswith("left")


def test_resident_memory_is_of_this_process() -> None:
    before = resident_bytes()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert resident_bytes() - before > 48 << 20
