"""The words, marks and phrases that rules look for, each as its source has it."""

from __future__ import annotations

# Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1. English only.
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "-", "*", "‣", "●", "▪", "◦")
ELLIPSES = ("...", "…")

# What ends a line for FineWeb's punctuation ratio: sentence ends of the large scripts.
SENTENCE_PUNCTUATION = (".", "!", "?", "…", "。", "！", "？", "．", "｡", "।", "॥", "؟", "۔", "։", "።", "។", "။")

# Raffel et al. 2020 (arXiv 1910.10683): "a terminal punctuation mark (i.e. a period, exclamation mark, question mark,
# or end quotation mark)", and the six phrases of the published code. The phrases are English.
TERMINAL_PUNCTUATION = (".", "!", "?", '"', "”")
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

# NeMo Curator, as its Nemotron-CC configuration uses them.
END_MARKS = (".", "?", "!", '"', "'", "”", "’", "。", "！", "？", "।", "؟", "۔")
BOILERPLATE_PHRASES = (
    *POLICY_PHRASES,
    "privacy overview",
    "privacy & cookies policy",
    "privacy and cookies policy",
    "lorem ipsum",
)

# The dolma toolkit's tagger gopher_v1.
DOLMA_SYMBOLS = ("#", "…")
DOLMA_BULLETS = ("*", "-")
DOLMA_ELLIPSES = ("…",)
