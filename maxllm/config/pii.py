"""Settings of masking personal information."""

from __future__ import annotations

from maxllm.config.section import Section


class PiiConfig(Section):
    enabled: bool = False
