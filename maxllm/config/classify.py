"""Settings of model-based quality: classifiers that score documents, and how they are trained."""

from __future__ import annotations

from pydantic import Field

from maxllm.config.section import Section


class ClassifierConfig(Section):
    """One model with one or more heads, applied to every document. Scores are kept in the document's metadata."""

    name: str = Field(description="of this model; its scores are metadata.scores.NAME")
    model: str = Field(description="path of a model that `maxllm classifier train` wrote, or of another known kind")
