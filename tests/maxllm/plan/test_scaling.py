"""Scaling laws: closed forms against numeric optima, fits against laws that are known."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import yaml
from scipy.optimize import minimize_scalar

from maxllm.cli import scaling as verb
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.models import count_parameters
from maxllm.plan.scaling import BESIROGLU, HOFFMANN, Kaplan, Point, bootstrap, by_ratio, fit, interval, isoflop
from maxllm.plan.scaling_runs import read_points


def runs(law, noise: float, seed: int = 0) -> list[Point]:
    """Seven sizes around the best one at each of six budgets; losses off by a factor of about 1 + `noise`."""
    generator, points = np.random.default_rng(seed), []
    for flops in np.geomspace(1e18, 1e21, 6):
        for ratio in np.geomspace(0.2, 5, 7):
            parameters = law.optimal(flops)[0] * ratio
            tokens = flops / 6 / parameters
            points.append(Point(parameters, tokens, law.loss(parameters, tokens) * np.exp(generator.normal() * noise)))
    return points


@pytest.mark.parametrize("law", [BESIROGLU, HOFFMANN])
@pytest.mark.parametrize("flops", [1e18, 5.76e23])
def test_the_closed_form_is_the_numeric_optimum(law, flops):
    def loss(log_parameters):
        return law.loss(np.exp(log_parameters), flops / 6 / np.exp(log_parameters))

    slow = np.exp(minimize_scalar(loss, bounds=(10, 40), method="bounded", options={"xatol": 1e-9}).x)
    parameters, tokens = law.optimal(flops)
    assert parameters == pytest.approx(slow, rel=1e-4)
    assert 6 * parameters * tokens == pytest.approx(flops)


def test_published_figures_are_met():
    # Hoffmann et al. 2022, figure 4: approach 3 puts the best model for Gopher's budget at 40B parameters.
    parameters, tokens = HOFFMANN.optimal(5.76e23)
    assert (parameters, tokens) == (pytest.approx(40e9, rel=0.03), pytest.approx(2.4e12, rel=0.03))
    # Besiroglu et al. 2024: about 20 tokens a parameter at Chinchilla's budget.
    parameters, tokens = BESIROGLU.optimal(5.76e23)
    assert 17 < tokens / parameters < 23
    assert by_ratio(5.76e23) == (pytest.approx(69.3e9, rel=1e-2), pytest.approx(1.386e12, rel=1e-2))
    # Kaplan et al. 2020, figure 4's limits, and table 6: 1.3e9 parameters for a PF-day.
    assert Kaplan.loss_of_parameters(8.8e13) == Kaplan.loss_of_tokens(5.4e13) == 1
    assert Kaplan.optimal(8.64e19)[0] == pytest.approx(1.3e9)
    assert Kaplan.loss(1e9, 1e18) == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-3)


@pytest.mark.parametrize("law", [BESIROGLU, HOFFMANN])
def test_a_fit_finds_the_law_behind_exact_losses(law):
    found = fit(runs(law, 0.0))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-3)


def test_a_fit_through_noise_and_an_outlier_predicts_ten_times_further():
    points = runs(BESIROGLU, 0.003)
    points[5] = points[5]._replace(loss=points[5].loss * 1.2)  # a run that went wrong: Huber's loss shrugs it off
    found = fit(points)
    assert found.alpha == pytest.approx(BESIROGLU.alpha, abs=0.03)
    assert found.beta == pytest.approx(BESIROGLU.beta, abs=0.03)
    parameters, tokens = BESIROGLU.optimal(1e22)
    truth = BESIROGLU.loss(parameters, tokens)
    assert found.loss(parameters, tokens) == pytest.approx(truth, rel=0.01)
    low, high = interval([law.loss(parameters, tokens) for law in bootstrap(points, found, count=20)], 0.95)
    assert low * 0.99 < truth < high * 1.01 and low < high


def test_isoflop_parabolas_find_the_exponent():
    found = isoflop(runs(BESIROGLU, 0.0))
    expected = BESIROGLU.beta / (BESIROGLU.alpha + BESIROGLU.beta)
    assert len(found.bottoms) == 6 and found.a == pytest.approx(expected, abs=0.01)
    assert found.optimal(1e21)[0] == pytest.approx(BESIROGLU.optimal(1e21)[0], rel=0.1)


def test_runs_that_cannot_tell_are_refused():
    with pytest.raises(UserError, match="at least 5 runs"):
        fit(runs(BESIROGLU, 0.0)[:4])
    with pytest.raises(UserError, match="together"):
        fit([Point(n, 20 * n, 3.0 - i / 10) for i, n in enumerate(np.geomspace(1e7, 1e9, 8))])
    with pytest.raises(UserError, match="positive"):
        fit([*runs(BESIROGLU, 0.0), Point(1e8, 1e9, float("nan"))])
    with pytest.raises(UserError, match="three sizes"):
        isoflop(runs(BESIROGLU, 0.0)[:2])


def test_runs_are_read_from_tables_and_run_directories(tmp_path):
    (tmp_path / "a.csv").write_text("loss, parameters, tokens\n3.5,1e7,2e8\n3.25,2e7,4e8\n")
    (tmp_path / "a.jsonl").write_text('{"parameters": 1e7, "tokens": 2e8, "loss": 3.5, "note": "x"}\n')
    run = tmp_path / "run"
    run.mkdir()
    model = ModelConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=2)
    config = {"model": model.model_dump(), "data": {"batch_size": 4, "sequence_length": 16}}
    (run / "config.yml").write_text(yaml.safe_dump(config))
    lines = [{"step": 99, "loss": 2.5}, {"step": 100, "loss": 2.0, "held_out_loss": 2.25}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    multiplied = count_parameters(model) - 64 * 32
    assert read_points([str(tmp_path / "a.csv"), str(tmp_path / "a.jsonl"), str(run)]) == [
        Point(1e7, 2e8, 3.5),
        Point(2e7, 4e8, 3.25),
        Point(1e7, 2e8, 3.5),
        Point(multiplied, 100 * 4 * 16, 2.25),
    ]
    (tmp_path / "b.csv").write_text("size,loss\n1,2\n")
    for bad, said in (("b.csv", "columns"), ("nowhere", "no such file"), (".", "not a run directory")):
        with pytest.raises(UserError, match=said):
            read_points([str(tmp_path / bad)])


def ask(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args(arguments))


def test_the_verb_says_what_a_budget_buys(capsys):
    assert ask("budget", "--dollars", "100000", "--on", "h100x8", "--mfu", "0.4") == 0
    said = capsys.readouterr().out
    assert "20 tokens a parameter" in said and "$100,000" in said and "40% of its peak" in said
    with pytest.raises(UserError, match="--on"):
        ask("budget", "--dollars", "5")


def test_the_verb_fits_and_predicts(tmp_path, capsys):
    table = "".join(f"{p.parameters},{p.tokens},{p.loss}\n" for p in runs(BESIROGLU, 0.002)[::2])
    (tmp_path / "losses.csv").write_text("parameters,tokens,loss\n" + table)
    assert ask("fit", str(tmp_path / "losses.csv"), "--predict", "1e9,20e9", "--flops", "1e24") == 0
    said = capsys.readouterr().out
    assert "21 runs" in said and "alpha" in said and "N = 1B, D = 20B: loss 2.5" in said
    assert "1,000 times the FLOPs of the largest run" in said
