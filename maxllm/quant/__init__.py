"""Matrix products in 8 bits while training: which ones, in what format, and what has to be remembered for them."""

from __future__ import annotations

from maxllm.quant.delayed import after_step
from maxllm.quant.rules import join, quantized, split

__all__ = ["after_step", "join", "quantized", "split"]
