"""What the compilers make of the presets stays what it was; a change is a sentence.

After a change that is meant: python -m maxllm.plan.golden CASE --write, and look at the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from maxllm.config.errors import UserError
from maxllm.parallel import rules
from maxllm.plan import golden

FOLDER = Path(__file__).parent / "golden"


def compiled_counts(name: str) -> dict:
    try:
        return golden.counts(golden.compiled(golden.CASES[name]))
    except UserError as error:
        pytest.skip(f"GOLDEN COUNTS OF {name} NOT CHECKED: {error}")


def test_a_small_tpu_step_is_as_golden():
    changed = golden.differences(golden.load("tiny-v5e-8", FOLDER), compiled_counts("tiny-v5e-8"))
    assert not changed, "\n".join(changed)


@pytest.mark.slow
def test_a_layout_rule_that_matches_nothing_is_not_as_golden(monkeypatch):
    """That the test above can fail: parameters no longer split over fsdp, as if the rule for `embed` were gone."""
    monkeypatch.setitem(rules.RULES, "embed", None)
    changed = golden.differences(golden.load("tiny-v5e-8", FOLDER), compiled_counts("tiny-v5e-8"))
    assert any(line.startswith("collectives: all-gather along fsdp") for line in changed), changed


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", [name for name in golden.CASES if name != "tiny-v5e-8"])
def test_a_preset_is_as_golden(name):
    found = compiled_counts(name)
    changed = golden.differences(golden.load(name, FOLDER), found)
    assert not changed, "\n".join(changed)


def test_differences_read_like_sentences():
    before = {
        "collectives": {"all-gather along fsdp": {"runs": 9, "gigabytes": 1.0}, "all-reduce along data": {"runs": 2}},
        "fused_attention": {"forward": 64.0},
        "temporary_gigabytes": 10.0,
    }
    assert golden.differences(before, before) == []
    after = {
        "collectives": {"all-gather along fsdp": {"runs": 8, "gigabytes": 1.015}},
        "fused_attention": {"forward": 64.0, "backward": 1.0},
        "temporary_gigabytes": 11.0,
    }
    assert golden.differences(before, after) == [
        "collectives: all-gather along fsdp: runs: 9 -> 8",
        "collectives: all-reduce along data: runs: 2 is gone",
        "fused_attention: backward: 1.0 is new",
        "temporary_gigabytes: 10.0 -> 11.0 (+10.0%, 5% allowed)",
    ]


def test_a_case_without_counts_says_how_to_get_them(tmp_path):
    with pytest.raises(UserError, match="--write"):
        golden.load("tiny-v5e-8", tmp_path)
