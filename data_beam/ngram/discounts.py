"""Modified Kneser-Ney's three discounts of an order."""

from __future__ import annotations

from collections.abc import Sequence

from maxllm.config.errors import UserError

Discounts = tuple[float, float, float, float]  # of adjusted counts 0, 1, 2, and 3 or more


def discounts(count_of_counts: Sequence[int], order: int, fallback: Sequence[float] | None) -> tuple[Discounts, bool]:
    """D_k = k - (k + 1) Y n_{k+1} / n_k with Y = n_1 / (n_1 + 2 n_2) (Chen and Goodman 1998, equation 26).

    Where that fails (an n_k of zero, a discount outside [0, k]) the fallback and True, as lmplz --discount_fallback;
    without one UserError.
    """
    n = (0, *count_of_counts)
    found = [0.0]
    problem = ""
    for k in (1, 2, 3):
        if n[k] == 0:
            problem = f"no {order}-gram has the adjusted count {k}"
            break
        y = n[1] / (n[1] + 2 * n[2])
        found.append(k - (k + 1) * y * n[k + 1] / n[k])
        if not 0 <= found[k] <= k:
            problem = f"the discount of {order}-grams with adjusted count {k} would be {found[k]:.3f}"
            break
    if not problem:
        return (found[0], found[1], found[2], found[3]), False
    if fallback is None:
        raise UserError(
            f"documents: too small or too odd for Kneser-Ney's discounts ({problem}); give more text, take duplicates "
            "out, lower order, or set discount_fallback: [0.5, 1, 1.5]"
        )
    return (0.0, fallback[0], fallback[1], fallback[2]), True
