"""Days and dollars of a run, from tokens per second and a price per device hour."""

from __future__ import annotations

from dataclasses import dataclass

from maxllm.config.errors import UserError
from maxllm.config.load import find, read_file
from maxllm.config.prices import AcceleratorPricesConfig
from maxllm.plan.types import Machine

SECONDS_PER_DAY = 86_400
PRICES = "prices/accelerators"


@dataclass(frozen=True)
class Cost:
    tokens: float
    tokens_per_second: float  # on all devices together, as expected: not the roofline's
    seconds: float
    device_hours: float
    dollars: float | None  # None: no price is known
    basis: str  # how tokens_per_second was arrived at, for the report

    @property
    def days(self) -> float:
        return self.seconds / SECONDS_PER_DAY


def load_prices(path: str = PRICES) -> AcceleratorPricesConfig:
    """From a YAML file or preset. Raises UserError."""
    tree = read_file(find(path)).values
    if tree.get("kind") != "accelerator-prices":
        raise UserError(f"--prices {path}: says kind {tree.get('kind')!r}; a file of prices says accelerator-prices")
    try:
        return AcceleratorPricesConfig(**tree)
    except ValueError as error:
        raise UserError(f"--prices {path}: {error}") from error


def cost(tokens: float, tokens_per_second: float, machine: Machine, basis: str = "measured") -> Cost:
    """Of training on `tokens` tokens at `tokens_per_second` on the whole machine, never stopping."""
    if tokens_per_second <= 0:
        raise UserError(f"tokens per second: {tokens_per_second:g} is not a speed")
    seconds = tokens / tokens_per_second
    hours = seconds / 3600 * machine.devices
    price = machine.price_per_device_hour
    return Cost(tokens, tokens_per_second, seconds, hours, None if price is None else hours * price, basis)


def expected_tokens_per_second(
    machine: Machine,
    *,
    flops_per_token: float,
    roofline_tokens_per_second: float | None,
    utilisation: float,
    mfu: float | None = None,
) -> tuple[float, str]:
    """What to count on, and on what grounds: a measured MFU if the user gives one, else a share of the roofline.

    `flops_per_token`: the model's, as MFU is defined over (train/flops.py).
    """
    peak = machine.peak_flops.get("bfloat16")
    if mfu is not None:
        if peak is None:
            raise UserError(f"--mfu: the peak of {machine.kind} is not known, so a share of it says nothing")
        if not 0 < mfu <= 1:
            raise UserError(f"--mfu {mfu:g}: a share of the peak, between 0 and 1")
        return mfu * peak * machine.devices / flops_per_token, f"a measured MFU of {mfu:.0%}"
    if roofline_tokens_per_second is None:
        raise UserError(f"--on {machine.name}: nothing says how fast it is; give a measured --mfu")
    return roofline_tokens_per_second * utilisation, f"{utilisation:.0%} of the roofline, an assumption"


def tokens_for(dollars: float, tokens_per_second: float, machine: Machine) -> float:
    """How many tokens a budget trains on. Raises UserError where no price is known."""
    price = machine.price_per_device_hour
    if not price:
        raise UserError(f"--dollars: no price of {machine.name} is known; add it to a copy of {PRICES} (--prices)")
    return dollars / (price * machine.devices) * 3600 * tokens_per_second
