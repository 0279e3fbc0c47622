"""Settings of `maxllm curate`: where documents come from, which stages they pass, where they go.

Thresholds carry the names their papers use; each rule set can be switched off by `enabled: false` or, rule by
rule, by setting a threshold to null.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from maxllm.config.section import Section


class InputConfig(Section):
    """One source of documents. The last two formats are the default corpus: this machine's own Python."""

    format: Literal["jsonl", "parquet", "warc", "html", "tfds", "python-docs", "python-source"]
    paths: list[str] = Field(default_factory=list, description="files, folders or globs; gs:// and s3:// through Beam")
    name: str | None = Field(None, description="Document.source; the record's own, else the format, when absent")
    text_key: str = Field("text", description="of jsonl, parquet and tfds")
    split: str = Field("train", description="of tfds")
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


class LanguageConfig(Section):
    """fastText lid.176; the mission's confidence is > 0.8, RefinedWeb's and FineWeb's 0.65."""

    enabled: bool = True
    model: str | None = Field(None, description="path of lid.176.bin; the bundled lid.176.ftz when absent")
    languages: list[str] = Field(default_factory=lambda: ["en"])
    min_confidence: float = Field(0.8, ge=0, le=1)


class GopherQuality(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1."""

    enabled: bool = True
    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_fraction: float | None = 0.9
    max_ellipsis_line_fraction: float | None = 0.3
    min_alphabetic_word_fraction: float | None = 0.8
    min_stop_words: int | None = Field(2, description="distinct ones of eight English words; null for other languages")


class GopherRepetition(Section):
    """Rae et al. 2021 (arXiv 2112.11446), table A1."""

    enabled: bool = True
    max_duplicate_line_fraction: float | None = 0.30
    max_duplicate_paragraph_fraction: float | None = 0.30
    max_duplicate_line_character_fraction: float | None = 0.20
    max_duplicate_paragraph_character_fraction: float | None = 0.20
    max_top_ngram_character_fraction: dict[int, float | None] = {2: 0.20, 3: 0.18, 4: 0.16}
    max_duplicate_ngram_character_fraction: dict[int, float | None] = {
        5: 0.15,
        6: 0.14,
        7: 0.13,
        8: 0.12,
        9: 0.11,
        10: 0.10,
    }


class C4Quality(Section):
    """Raffel et al. 2020 (arXiv 1910.10683), section 2.2. Line rules remove lines, page rules drop the page."""

    enabled: bool = True
    terminal_punctuation: bool = True
    remove_citations: bool = Field(True, description="[1], [edit], [citation needed]: in the code, not in the paper")
    min_words_per_line: int | None = 3
    min_sentences: int | None = 5
    max_word_length: int | None = 1000
    drop_javascript_lines: bool = True
    drop_policy_lines: bool = True
    drop_lorem_ipsum: bool = True
    drop_curly_brace: bool = True


class FineWebQuality(Section):
    """Penedo et al. 2024 (arXiv 2406.17557), section 3.6; values of the published code."""

    enabled: bool = True
    min_line_punctuation_ratio: float | None = 0.12
    max_short_line_ratio: float | None = 0.67
    short_line_length: int = 30
    max_duplicate_line_character_ratio: float | None = 0.01
    max_newline_word_ratio: float | None = 0.3


class QualityConfig(Section):
    gopher: GopherQuality = GopherQuality()
    repetition: GopherRepetition = GopherRepetition()
    c4: C4Quality = C4Quality()
    fineweb: FineWebQuality = FineWebQuality()


class CodeConfig(Section):
    """Source files must parse. Documents whose metadata.content_type is `code` take this instead of prose rules."""

    enabled: bool = True
    max_characters: PositiveInt = Field(1_000_000, description="longer files are dropped, unparsed")


class ExactDedupConfig(Section):
    enabled: bool = True


class FuzzyDedupConfig(Section):
    """MinHash-LSH: Broder 1997; 14 bands of 8 rows over word 5-grams is FineWeb's (threshold about 0.72)."""

    enabled: bool = True
    ngram: PositiveInt = 5
    bands: PositiveInt = 14
    rows: PositiveInt = 8
    seed: int = 1
    rounds: int = Field(2, ge=0, description="of joining in parallel before one worker ends it; same result for any")


class DecontaminationConfig(Section):
    """Text overlapping an evaluation item drops the document. Each of `text_keys` that a line has is an item."""

    enabled: bool = True
    paths: list[str] = Field(default_factory=list, description="files or globs of JSON lines, an evaluation item each")
    text_keys: list[str] = Field(default_factory=lambda: ["text", "question", "answer"])
    ngram: PositiveInt = 13
    threshold: float = Field(0.8, gt=0, le=1, description="share of an item's n-grams found in the document")
    min_words: PositiveInt = Field(5, description="shorter items, such as an answer that is a number, are left out")


class OutputConfig(Section):
    path: str = "runs/documents"
    format: Literal["jsonl.gz", "jsonl.zst", "jsonl", "parquet"] = "jsonl.zst"


class CurateConfig(Section):
    kind: Literal["curate"] = "curate"
    inputs: list[InputConfig] = Field(default_factory=list)
    url: UrlConfig = UrlConfig()
    extract: ExtractConfig = ExtractConfig()
    language: LanguageConfig = LanguageConfig()
    quality: QualityConfig = QualityConfig()
    code: CodeConfig = CodeConfig()
    exact_dedup: ExactDedupConfig = ExactDedupConfig()
    fuzzy_dedup: FuzzyDedupConfig = FuzzyDedupConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _sources(self) -> CurateConfig:
        names = [item.name or item.format for item in self.inputs]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two inputs are called {repeated[0]}; give each its own inputs.name: ids are made of it")
        return self
