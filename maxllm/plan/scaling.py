"""Scaling laws: what loss a model of N parameters reaches after D tokens, and the best N and D for a budget.

Training costs C = 6 N D FLOPs (Kaplan et al. 2020, section 2.1). Losses are nats per token of the corpus and the
tokenizer that a law was fitted on: of another law's numbers only the ratio of D to N carries over to your data, and
that roughly. Fit your own runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls

from maxllm.config.errors import UserError


class Point(NamedTuple):
    """One finished training run."""

    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True)
class Chinchilla:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimal(self, flops: float) -> tuple[float, float]:
        """N and D of the lowest loss with 6 N D = `flops` (equation 4): N = G (C/6)^a, D = (C/6)^b / G."""
        total = self.alpha + self.beta
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        return g * (flops / 6) ** (self.beta / total), (flops / 6) ** (self.alpha / total) / g


# Approach 3 of Hoffmann et al. 2022; E, alpha and beta as in the paper's source: the printed 1.69, 0.34 and 0.28 are
# rounded so far that the law is another (Besiroglu et al. 2024, section 3). And Besiroglu et al.'s own fit to the
# points read off their figure, which agrees with Hoffmann's other two approaches and so with 20 tokens a parameter.
HOFFMANN = Chinchilla(E=1.6934, A=406.4, B=410.7, alpha=0.3392, beta=0.2849)
BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
LAWS = {"besiroglu": BESIROGLU, "hoffmann": HOFFMANN}

TOKENS_PER_PARAMETER = 20


def by_ratio(flops: float, tokens_per_parameter: float = TOKENS_PER_PARAMETER) -> tuple[float, float]:
    """N and D with D = `tokens_per_parameter` N and 6 N D = `flops`: the rule of thumb of 20."""
    parameters = math.sqrt(flops / (6 * tokens_per_parameter))
    return parameters, tokens_per_parameter * parameters


class Kaplan:
    """Kaplan et al. 2020. N without embeddings; D in tokens; C in FLOPs. Superseded by Chinchilla where they disagree:
    their runs shared one learning-rate schedule, which cost the shorter ones (Hoffmann et al. 2022, section 2)."""

    PF_DAY = 1e15 * 86_400

    @staticmethod
    def loss_of_parameters(parameters: float) -> float:
        """L(N) = (8.8e13 / N)^0.076, with as many tokens as it takes (equation 1.1)."""
        return (8.8e13 / parameters) ** 0.076

    @staticmethod
    def loss_of_tokens(tokens: float) -> float:
        """L(D) = (5.4e13 / D)^0.095, with as large a model as it takes (equation 1.2)."""
        return (5.4e13 / tokens) ** 0.095

    @staticmethod
    def loss(parameters: float, tokens: float) -> float:
        """L(N, D) = [(6.4e13 / N)^(0.076 / 0.103) + 1.8e13 / D]^0.103 (equation 1.5, table 2)."""
        return ((6.4e13 / parameters) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103

    @classmethod
    def loss_of_compute(cls, flops: float) -> float:
        """L(C_min) = (3.1e8 PF-days / C)^0.050, N and D chosen well (equation 1.3)."""
        return (3.1e8 * cls.PF_DAY / flops) ** 0.050

    @classmethod
    def optimal(cls, flops: float) -> tuple[float, float]:
        """N = 1.3e9 (C / PF-day)^0.73, and the D that 6 N D = C leaves (table 6)."""
        parameters = 1.3e9 * (flops / cls.PF_DAY) ** 0.73
        return parameters, flops / (6 * parameters)


# log A and log B at the runs' mean sizes, log E, alpha, beta.
_LOWEST, _HIGHEST = np.array([-20, -20, -20, 0.01, 0.01]), np.array([10, 10, 5, 3, 3])


def fit(points: Sequence[Point], delta: float = 1e-3) -> Chinchilla:
    """The law that fits `points` best: least Huber loss of log(predicted) - log(seen), from a grid of starts (Hoffmann
    et al. 2022, appendix D.3; delta theirs).

    Given alpha and beta the rest is linear, so a start is a pair of them and the non-negative least squares of the
    others. From there a trust-region method instead of the paper's L-BFGS, which stopped early there (Besiroglu et al.
    2024) and takes fifty times as long here to arrive at the same law.
    Raises UserError for fewer than 5 runs, or runs that do not vary N and D apart.
    """
    parameters, tokens, losses = _columns(points)
    if len(points) < 5:
        raise UserError(
            f"{len(points)} runs: five numbers are fitted, which takes at least 5 runs; 10 or more to trust it"
        )
    spread = np.linalg.matrix_rank(np.stack([np.ones_like(losses), np.log(parameters), np.log(tokens)]), tol=1e-6)
    if spread < 3:
        raise UserError("the runs vary parameters and tokens together; vary each at a fixed value of the other")
    starts = []
    for alpha in np.linspace(0.1, 1.0, 10):
        for beta in np.linspace(0.1, 1.0, 10):
            start, error = _linear_start(parameters, tokens, losses, alpha, beta)
            starts.append((error, start))
    starts.sort(key=lambda pair: pair[0])
    return _refine([start for _, start in starts[:5]], parameters, tokens, losses, delta)


def _columns(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array([tuple(point) for point in points], np.float64)
    if not (np.isfinite(table).all() and (table > 0).all()):
        raise UserError("a run has parameters, tokens or a loss that is not a positive number")
    return table[:, 0], table[:, 1], table[:, 2]


def _linear_start(
    parameters: np.ndarray, tokens: np.ndarray, losses: np.ndarray, alpha: float, beta: float
) -> tuple[np.ndarray, float]:
    """(log A, log B, log E, alpha, beta) and the error, relative to the losses."""
    # Columns near 1 in size: sums of squares of 1e-10 are lost in float64.
    scale_n, scale_d = parameters.min() ** alpha, tokens.min() ** beta
    columns = np.stack([scale_n / parameters**alpha, scale_d / tokens**beta, np.ones_like(losses)], axis=1)
    (a, b, e), error = nnls(columns / losses[:, None], np.ones_like(losses))
    tiny = 1e-6
    return np.array(
        [np.log(max(a, tiny) * scale_n), np.log(max(b, tiny) * scale_d), np.log(max(e, tiny)), alpha, beta]
    ), error


def _refine(
    starts: Sequence[np.ndarray], parameters: np.ndarray, tokens: np.ndarray, losses: np.ndarray, delta: float
) -> Chinchilla:
    log_n, log_d, log_loss = np.log(parameters), np.log(tokens), np.log(losses)
    # About their means the terms' heights and slopes hardly depend on one another.
    mean_n, mean_d = log_n.mean(), log_d.mean()
    log_n, log_d = log_n - mean_n, log_d - mean_d

    def terms(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log of the predicted losses `[runs]`, and each term's share of them `[3, runs]`."""
        a, b, e, alpha, beta = theta
        logs = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        highest = logs.max(axis=0)
        sizes = np.exp(logs - highest)
        return highest + np.log(sizes.sum(axis=0)), sizes / sizes.sum(axis=0)

    def slopes(theta: np.ndarray) -> np.ndarray:
        a, b, e = terms(theta)[1]
        return np.stack([a, b, e, -a * log_n, -b * log_d], axis=1)

    best = None
    for start in starts:
        found = least_squares(
            lambda theta: terms(theta)[0] - log_loss,
            np.clip(start - [start[3] * mean_n, start[4] * mean_d, 0, 0, 0], _LOWEST + 1e-6, _HIGHEST - 1e-6),
            jac=slopes,
            bounds=(_LOWEST, _HIGHEST),
            loss="huber",
            f_scale=delta,
            xtol=1e-10,
            ftol=1e-10,
            max_nfev=1000,
        )
        if best is None or found.cost < best.cost:
            best = found
    a, b, e, alpha, beta = (float(value) for value in best.x)
    return Chinchilla(math.exp(e), math.exp(a + alpha * mean_n), math.exp(b + beta * mean_d), alpha, beta)


def bootstrap(points: Sequence[Point], law: Chinchilla, count: int = 100, seed: int = 0) -> list[Chinchilla]:
    """`law` fitted again to `count` resamples of the runs, beginning at `law`: its uncertainty."""
    generator, laws = np.random.default_rng(seed), []
    parameters, tokens, losses = _columns(points)
    start = np.array([math.log(law.A), math.log(law.B), math.log(law.E), law.alpha, law.beta])
    for _ in range(count):
        chosen = generator.integers(0, len(points), len(points))
        laws.append(_refine([start], parameters[chosen], tokens[chosen], losses[chosen], 1e-3))
    return laws


def interval(values: Sequence[float], share: float = 0.8) -> tuple[float, float]:
    """The middle `share` of bootstrapped values."""
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


class IsoFlop(NamedTuple):
    """The bottom of one budget's parabola."""

    flops: float
    parameters: float
    tokens: float
    loss: float


class IsoFlopFit(NamedTuple):
    """N = k C^a through the bottoms."""

    bottoms: list[IsoFlop]
    k: float
    a: float

    def optimal(self, flops: float) -> tuple[float, float]:
        parameters = self.k * flops**self.a
        return parameters, flops / (6 * parameters)


def isoflop(points: Sequence[Point], tolerance: float = 0.1) -> IsoFlopFit:
    """Approach 2 of Hoffmann et al. 2022: at each budget a parabola of the loss over log N, a power law through their
    bottoms. Runs whose FLOPs are within `tolerance` share a budget; one with fewer than 3 sizes, or whose parabola has
    no bottom, is left out. Raises UserError unless two budgets remain.
    """
    _columns(points)
    budgets: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.flops):
        if budgets and point.flops <= budgets[-1][0].flops * (1 + tolerance):
            budgets[-1].append(point)
        else:
            budgets.append([point])
    bottoms = []
    for members in budgets:
        sizes = np.log([point.parameters for point in members])
        if len(set(sizes.round(6))) < 3:
            continue
        centre = sizes.mean()
        curve, slope, height = np.polyfit(sizes - centre, [point.loss for point in members], 2)
        if curve <= 0:
            continue
        flops = float(np.exp(np.mean([math.log(point.flops) for point in members])))
        parameters = math.exp(centre - slope / (2 * curve))
        bottoms.append(IsoFlop(flops, parameters, flops / (6 * parameters), height - slope**2 / (4 * curve)))
    if len(bottoms) < 2:
        raise UserError(
            f"{len(bottoms)} of {len(budgets)} budgets have a parabola with a bottom; train at least three sizes, on "
            "both sides of the best one, at each of two or more budgets"
        )
    a, log_k = np.polyfit(np.log([each.flops for each in bottoms]), np.log([each.parameters for each in bottoms]), 1)
    return IsoFlopFit(bottoms, math.exp(log_k), float(a))
