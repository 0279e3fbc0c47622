"""The one line a verb ends with, which a recipe collects into its summary."""

from __future__ import annotations

import os

SUMMARY_VARIABLE = "MAXLLM_STAGE_SUMMARY"


def say(line: str) -> None:
    """Print what the verb did; when a recipe runs it, leave the line for the recipe too."""
    print(line, flush=True)
    path = os.environ.get(SUMMARY_VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
