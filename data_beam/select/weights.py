"""Shares of sources in training from their sizes. Pure functions; sizes in tokens, shares sum to 1."""

from __future__ import annotations

from collections.abc import Mapping


def proportional(sizes: Mapping[str, float]) -> dict[str, float]:
    return _normalised(sizes)


def uniform(sizes: Mapping[str, float]) -> dict[str, float]:
    return _normalised(dict.fromkeys(sizes, 1.0))


def alpha_sampling(sizes: Mapping[str, float], exponent: float) -> dict[str, float]:
    """p ~ size ** exponent. Below 1 small sources gain, above 1 large ones."""
    return _normalised({name: size**exponent for name, size in sizes.items()})


def unimax(sizes: Mapping[str, float], budget: float, max_epochs: float) -> dict[str, float]:
    """Uniform shares of the budget, but no source more than `max_epochs` times; what is left over goes to the larger.

    Chung et al. 2023 (arXiv 2304.09151), algorithm 1: sources in ascending order of size; each gets an equal part of
    what is left of the budget, or all its epochs if that is less. When the budget exceeds all epochs of all sources,
    shares are those of the sizes.
    """
    left, taken = float(budget), {}
    ascending = sorted(sizes, key=lambda name: (sizes[name], name))
    for place, name in enumerate(ascending):
        taken[name] = min(left / (len(ascending) - place), max_epochs * sizes[name])
        left -= taken[name]
    return _normalised({name: taken[name] for name in sizes})


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
