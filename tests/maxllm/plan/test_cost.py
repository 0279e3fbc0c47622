"""Days and dollars."""

from __future__ import annotations

import pytest

from maxllm.config.errors import UserError
from maxllm.plan.cost import cost, expected_tokens_per_second, load_prices, tokens_for
from maxllm.plan.machines import machine


def test_64_a100_at_1500_tokens_a_second_each_train_on_116_billion_tokens_in_14_days():
    """And not on 2T, as the figures that this project started from say."""
    a100s = machine("a100x8x8", {"a100": 2.0})
    assert a100s.devices == 64
    fourteen_days = 64 * 1500 * 14 * 86_400
    assert fourteen_days == pytest.approx(116e9, rel=0.002)
    spent = cost(fourteen_days, 64 * 1500, a100s)
    assert spent.days == pytest.approx(14)
    assert spent.dollars == pytest.approx(14 * 24 * 64 * 2.0)
    assert cost(2e12, 64 * 1500, a100s).days == pytest.approx(241, abs=1)


def test_a_budget_and_what_it_buys_agree():
    on = machine("v5e-16", {"v5e": 1.5})
    tokens = tokens_for(1000.0, 20_000, on)
    assert cost(tokens, 20_000, on).dollars == pytest.approx(1000)


def test_a_measured_mfu_beats_an_assumption():
    on = machine("h100x8", {})
    speed, basis = expected_tokens_per_second(
        on, flops_per_token=6e9, roofline_tokens_per_second=1e6, utilisation=0.5, mfu=0.4
    )
    assert speed == pytest.approx(0.4 * 989e12 * 8 / 6e9) and "measured" in basis
    speed, basis = expected_tokens_per_second(on, flops_per_token=6e9, roofline_tokens_per_second=1e6, utilisation=0.5)
    assert speed == 5e5 and "assumption" in basis


@pytest.mark.parametrize("mfu", [0.0, 1.5, -1.0])
def test_an_mfu_is_a_share(mfu):
    with pytest.raises(UserError, match="between 0 and 1"):
        expected_tokens_per_second(
            machine("h100x8"), flops_per_token=1, roofline_tokens_per_second=1, utilisation=1, mfu=mfu
        )


def test_without_a_price_there_are_hours_and_no_dollars():
    on = machine("h100x8")
    spent = cost(3600e6, 1e6, on)
    assert (spent.device_hours, spent.dollars) == (8, None)
    with pytest.raises(UserError, match="no price"):
        tokens_for(100, 1e6, on)


def test_shipped_prices_are_read_and_a_users_own_are_checked(tmp_path):
    prices = load_prices()
    assert machine("v5p-8", prices.per_hour).price_per_device_hour > 0
    assert 0 < prices.utilisation <= 1
    own = tmp_path / "own.yml"
    own.write_text("kind: accelerator-prices\nper_hour: {h100: cheap}\nutilisation: 0.5\n")
    with pytest.raises(UserError, match="per_hour"):
        load_prices(str(own))
    with pytest.raises(UserError, match="accelerator-prices"):
        load_prices("prices/dataflow")
