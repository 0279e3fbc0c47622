"""What machines cost, for estimates before a job is started."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maxllm.config.section import Section


class PricesConfig(Section):
    """US dollars. No defaults: prices come from a file with their source and date."""

    kind: Literal["prices"] = "prices"
    vcpu_hour: float = Field(ge=0)
    memory_gib_hour: float = Field(ge=0)
    memory_gib_per_vcpu: float = Field(gt=0)
    shuffle_gib: float = Field(ge=0)
    utilisation: float = Field(gt=0, le=1, description="share of the time paid for in which workers compute")


class AcceleratorPricesConfig(Section):
    """US dollars of a chip or GPU an hour, by family. No defaults: they come from a file with their source and date."""

    kind: Literal["accelerator-prices"] = "accelerator-prices"
    per_hour: dict[str, float] = Field(description="by family: v5e, h100, ...; a TPU's chip, whatever JAX shows it as")
    utilisation: float = Field(
        gt=0, le=1, description="tokens per second that a run reaches, over those of the roofline, until it is measured"
    )
