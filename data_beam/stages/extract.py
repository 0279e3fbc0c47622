"""Text out of HTML, in a child process that is killed when a page takes too long."""

from __future__ import annotations

import re

from data_beam.child import Child
from data_beam.document import Document, Drop
from maxllm.config.curate import ExtractConfig

# extractor -> function that runs in the child: (html, url or None) -> text
EXTRACTORS = {
    "trafilatura": "data_beam.stages.extract:trafilatura_text",
    "resiliparse": "data_beam.stages.extract:resiliparse_text",
}
BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
EMPTY_LINES = re.compile(r"\n{3,}")


def trafilatura_text(job: tuple[str, str | None]) -> str:
    """Barbaresi 2021. As FineWeb has it, but without `deduplicate`, which remembers other pages."""
    import trafilatura

    page, url = job
    return trafilatura.extract(page, url=url, favor_precision=True, include_comments=False) or ""


def resiliparse_text(job: tuple[str, str | None]) -> str:
    """Bevendorff et al. 2018; what DCLM uses."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(job[0], main_content=True, alt_texts=False)


def tidy(text: str) -> str:
    """No-break spaces are spaces; no blanks at line ends; at most one empty line in a row."""
    text = BLANKS.sub("", text.replace("\xa0", " "))
    return EMPTY_LINES.sub("\n\n", text).strip()


class Extract:
    """Documents whose metadata.content_type is `html` become text; others pass.

    The child is this worker's own and serves page after page. `submit` and `result` let the worker do something else
    while it works. A page that fails raises `ChildError` and costs only itself.
    """

    name = "extract"

    def __init__(self, config: ExtractConfig) -> None:
        self.child = Child(EXTRACTORS[config.extractor], config.timeout_seconds)
        self.document: Document | None = None

    def __call__(self, document: Document) -> Document | Drop:
        self.submit(document)
        return self.result()

    def submit(self, document: Document) -> None:
        self.document = document
        if _is_html(document):
            self.child.submit((document.text, document.metadata.get("url")))

    def result(self) -> Document | Drop:
        """Of the document submitted last. Raises ChildError."""
        document, self.document = self.document, None
        assert document is not None, "result() without submit()"
        if not _is_html(document):
            return document
        text = tidy(self.child.result())
        if not text:
            return Drop("extract.empty", len(document.text))
        return document.with_text(text, content_type="text")

    def close(self) -> None:
        self.child.close()


def _is_html(document: Document) -> bool:
    return document.metadata.get("content_type") == "html"
