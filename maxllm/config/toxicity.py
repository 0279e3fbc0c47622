"""Settings of toxicity and adult-content filters."""

from __future__ import annotations

from maxllm.config.section import Section


class ToxicityConfig(Section):
    enabled: bool = False
