"""Settings of duplicate removal inside documents and by meaning."""

from __future__ import annotations

from maxllm.config.section import Section


class SubstringDedupConfig(Section):
    enabled: bool = False


class SemanticDedupConfig(Section):
    enabled: bool = False
