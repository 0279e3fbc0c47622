"""Settings of `maxllm curate`: where documents come from, which stages they pass, where they go.

Thresholds carry the names their papers use; each rule set can be switched off by `enabled: false` or, rule by
rule, by setting a threshold to null.
"""

from __future__ import annotations

import string
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from maxllm.config.classify import ClassifierConfig
from maxllm.config.code import CodeConfig
from maxllm.config.decontaminate import DecontaminationConfig
from maxllm.config.dedup import DedupIndexConfig, ExactDedupConfig, FuzzyDedupConfig, LineDedupConfig
from maxllm.config.dedup_text import SemanticDedupConfig, SubstringDedupConfig
from maxllm.config.language import LanguageConfig
from maxllm.config.perplexity import PerplexityConfig
from maxllm.config.pii import PiiConfig
from maxllm.config.rules import QualityConfig
from maxllm.config.section import Section
from maxllm.config.toxicity import ToxicityConfig


class InputConfig(Section):
    """One source of documents. `documents`: what this program writes, ids kept. The last two are the default corpus."""

    format: Literal["documents", "jsonl", "parquet", "warc", "html", "hf", "tfds", "python-docs", "python-source"]
    paths: list[str] = Field(default_factory=list, description="files, folders or globs; gs:// and s3:// through Beam")
    name: str | None = Field(None, description="Document.source; the record's own, else the format, when absent")
    text_key: str = Field("text", description="of jsonl, parquet, hf and tfds")
    split: str = Field("train", description="of hf and tfds")
    limit: int | None = Field(
        None, gt=0, description="at most this many: pages and files by lowest hash, records first come"
    )
    max_bytes: PositiveInt = Field(20_000_000, description="a larger document is dropped, reason read.max_bytes")

    @model_validator(mode="after")
    def _paths(self) -> InputConfig:
        if not self.paths and not self.format.startswith("python-"):
            raise ValueError(f"paths is empty; name the files or folders that format {self.format} shall read")
        return self


class UrlConfig(Section):
    enabled: bool = True
    domain_files: list[str] = Field(default_factory=list, description="a domain a line; its subdomains match too")
    word_files: list[str] = Field(default_factory=list, description="a word a line, matched whole in the URL")


class ExtractConfig(Section):
    """Text out of HTML. resiliparse is twenty times faster; trafilatura leaves out more of what is not the article."""

    enabled: bool = True
    extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    timeout_seconds: float = Field(20.0, gt=0, description="a page that takes longer becomes a dead letter")


class SignalsConfig(Section):
    """Measuring apart from deciding: what was measured can stay with the document, for other thresholds later."""

    store: bool = Field(
        False, description="keep every measured value in metadata.signals; a later run reads them there"
    )
    decide: bool = Field(True, description="false: measure and store only; no rule, model or score drops a document")


class OutputConfig(Section):
    path: str = "runs/documents"
    format: Literal["jsonl.gz", "jsonl.zst", "jsonl", "parquet"] = "jsonl.zst"
    source: str = Field(
        "{source}", description="Document.source as written; {language} or any key of metadata routes into mixtures"
    )

    @field_validator("source")
    @classmethod
    def _template(cls, template: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise ValueError(
                f"{template!r} is not a template ({error}); write for example {{source}}/{{language}}"
            ) from None
        if not template or any(not name.isidentifier() for name in names):
            raise ValueError(f"{template!r} is not a template; write for example {{source}}/{{language}}")
        return template


class CurateConfig(Section):
    kind: Literal["curate"] = "curate"
    inputs: list[InputConfig] = Field(default_factory=list)
    url: UrlConfig = UrlConfig()
    extract: ExtractConfig = ExtractConfig()
    pii: PiiConfig = PiiConfig()
    language: LanguageConfig = LanguageConfig()
    quality: QualityConfig = QualityConfig()
    code: CodeConfig = CodeConfig()
    classifiers: list[ClassifierConfig] = Field(default_factory=list)
    toxicity: ToxicityConfig = ToxicityConfig()
    perplexity: PerplexityConfig = PerplexityConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    exact_dedup: ExactDedupConfig = ExactDedupConfig()
    fuzzy_dedup: FuzzyDedupConfig = FuzzyDedupConfig()
    dedup_index: DedupIndexConfig = DedupIndexConfig()
    line_dedup: LineDedupConfig = LineDedupConfig()
    substring_dedup: SubstringDedupConfig = SubstringDedupConfig()
    semantic_dedup: SemanticDedupConfig = SemanticDedupConfig()
    signals: SignalsConfig = SignalsConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _sources(self) -> CurateConfig:
        names = [item.name or item.format for item in self.inputs]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two inputs are called {repeated[0]}; give each its own inputs.name: ids are made of it")
        return self
