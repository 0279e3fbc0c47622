"""Signals end a run after a step; numbers that are no numbers end it before they are saved."""

from __future__ import annotations

import os
import signal

import pytest

from maxllm.train.guard import Diverged, Interrupted, Signals, check_finite


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_is_said(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with Signals(said.append) as signals:
        assert signals.stop(1) is None
        os.kill(os.getpid(), number)
        assert signals.stop(2) == number
    assert said == [f"{number.name}: stopping after this step, once it is saved"]
    assert signal.getsignal(number) == before
    assert Interrupted(number).code == 128 + number


def test_a_second_ctrl_c_does_not_wait() -> None:
    with Signals(lambda _: None), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_stops_with_what_to_look_at(value: float) -> None:
    asked: list[int] = []

    def document_ids(batch: int) -> list[str]:
        asked.append(batch)
        return [f"document-{index}" for index in range(10)]

    check_finite(7, {"loss": 2.0}, document_ids, 5)
    with pytest.raises(Diverged) as caught:
        check_finite(8, {"loss": 2.0, "gradient_norm": value}, document_ids, 5)
    sentence = str(caught.value)
    assert asked == [7]
    for part in ("step 8", "gradient_norm", "document-0", "2 more", "checkpoint of step 5", "learning_rate"):
        assert part in sentence
    assert "loss =" not in sentence


def test_the_report_survives_a_loader_that_fails() -> None:
    def document_ids(batch: int) -> list[str]:
        raise RuntimeError("no index")

    with pytest.raises(Diverged, match="unknown: no index"):
        check_finite(1, {"loss": float("nan")}, document_ids, None)
