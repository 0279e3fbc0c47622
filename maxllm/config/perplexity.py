"""Settings of perplexity filtering by n-gram models, and of training such models."""

from __future__ import annotations

from maxllm.config.section import Section


class PerplexityConfig(Section):
    enabled: bool = False
