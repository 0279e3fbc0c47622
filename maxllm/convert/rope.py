"""Rotary settings of a config.json, in the words of transformers 4 (`rope_theta`, `rope_scaling`) and 5
(`rope_parameters`), and ours, each from the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxllm.config.model_parts import RopeScalingConfig
from maxllm.convert.family import Settings

# Ours: theirs.
_FIELDS = {
    "llama3": {
        "factor": "factor",
        "original_positions": "original_max_position_embeddings",
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
    },
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},  # its original positions are max_position_embeddings, whatever else is said
    "yarn": {
        "factor": "factor",
        "original_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
    },
}
_NEUTRAL = {"rope_type", "type", "rope_theta"}


def from_huggingface(settings: Settings, default_theta: float = 10000.0) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of ModelConfig."""
    new, old = settings.get("rope_parameters", {}), settings.get("rope_scaling", {})
    theta = _agreed(settings, "rope_theta", settings.get("rope_theta"), new.get("rope_theta"), default_theta)
    scaling = {name: value for name, value in new.items() if name != "rope_theta"}
    others = {name: value for name, value in old.items() if name != "rope_theta"}
    if _plain(scaling) and not _plain(others):
        scaling = others
    elif not _plain(others) and _normal(others) != _normal(scaling):
        raise settings.refused("rope_scaling and rope_parameters contradict each other")
    for place in (settings.values, new, old):
        if place.get("partial_rotary_factor", 1.0) not in (1.0, None):
            raise settings.refused(
                f"partial_rotary_factor is {place['partial_rotary_factor']}, and we turn whole heads"
            )
    return {"rope_theta": float(theta), "rope_scaling": scaling_of(settings, scaling)}


def scaling_of(settings: Settings, values: Mapping[str, Any]) -> RopeScalingConfig | None:
    """One rotary scaling's dictionary. Raises UserError for a kind, or a setting of it, that we do not compute."""
    if _plain(values):
        return None
    kind = _kind(values)
    if kind not in _FIELDS:
        raise settings.refused(
            f"rotary positions of type {kind!r} are not among those we compute: {', '.join(_FIELDS)}"
        )
    fields = _FIELDS[kind]
    for name, value in values.items():
        if name not in _NEUTRAL and name not in fields.values() and value not in (None, False):
            if name == "partial_rotary_factor" and value == 1.0 or name == "truncate" and value is True:
                continue
            if name == "original_max_position_embeddings":  # says nothing here
                continue
            raise settings.refused(f"{name} {value!r} of rotary positions of type {kind!r} is not known to us")
    found = {ours: values[theirs] for ours, theirs in fields.items() if values.get(theirs) is not None}
    if kind != "linear" and "original_positions" not in found:
        found["original_positions"] = settings["max_position_embeddings"]
    return RopeScalingConfig(kind=kind, **found)


def to_huggingface(theta: float, scaling: RopeScalingConfig | None) -> dict[str, Any]:
    """transformers 4 and most servers read `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`."""
    values = scaling_to(scaling)
    return {
        "rope_theta": theta,
        "rope_scaling": values if scaling else None,
        "rope_parameters": {"rope_theta": theta, **values},
    }


def scaling_to(scaling: RopeScalingConfig | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    pairs = ((theirs, getattr(scaling, ours)) for ours, theirs in _FIELDS[scaling.kind].items())
    return {"rope_type": scaling.kind, **{theirs: value for theirs, value in pairs if value is not None}}


def _kind(values: Mapping[str, Any]) -> str:
    return values.get("rope_type") or values.get("type") or "default"


def _plain(values: Mapping[str, Any]) -> bool:
    return _kind(values) == "default"


def _normal(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope_type": _kind(values)} | {n: v for n, v in values.items() if n not in _NEUTRAL and v is not None}


def _agreed(settings: Settings, name: str, one: Any, other: Any, default: Any) -> Any:
    if one is not None and other is not None and one != other:
        raise settings.refused(f"{name} is {one}, and {other} in rope_parameters: which is meant?")
    return one if one is not None else default if other is None else other
