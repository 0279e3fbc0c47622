"""`report.json` of a run: its numbers, from the summaries of its phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


def make_report(
    config: BaseModel,
    fingerprint: str,
    stages: Sequence[str],
    read: int,
    summary: dict[str, Any],
    names: list[str],
    seconds: float,
) -> dict[str, Any]:
    """`stages` in order; the reasons of drops begin with one of them (the rule sets of quality name themselves)."""
    dropped, dead = summary["dropped"], summary["dead"]
    left, funnel = read, []
    for stage in stages:
        lost = sum(count for reason, count in dropped.items() if _stage_of(reason, stages) == stage)
        failed = dead.get(stage, 0)
        funnel.append({"stage": stage, "in": left, "dropped": lost, "dead": failed, "out": left - lost - failed})
        left -= lost + failed
    return {
        "fingerprint": fingerprint,
        "read": read,
        "kept": sum(summary["kept"].values()),
        "dropped": sum(dropped.values()),
        "dead": sum(dead.values()),
        "kept_bytes": sum(summary["bytes"].values()),
        "seconds": round(seconds, 1),
        "funnel": funnel,
        "reasons": dropped,
        "dead_stages": dead,
        "sources": {
            name: {"documents": count, "bytes": summary["bytes"].get(name, 0)}
            for name, count in summary["kept"].items()
        },
        "languages": summary["languages"],
        "years": summary["years"],
        "lengths": summary["lengths"],
        "samples": summary["samples"],
        "files": names,
        "config": config.model_dump(mode="json"),
    }


def _stage_of(reason: str, stages: Sequence[str]) -> str:
    stage = reason.partition(".")[0]
    return stage if stage in stages else "quality"


def lines(verb: str, report: dict[str, Any]) -> list[str]:
    """The run in a few lines: one for each stage that took something away."""
    out = [f"{verb}: read {report['read']:,} documents"]
    for row in report["funnel"]:
        if row["dropped"] or row["dead"]:
            out.append(f"  {row['stage']:<16} -{row['dropped']:,} dropped, {row['dead']:,} failed; {row['out']:,} left")
    out.append(f"{verb}: kept {report['kept']:,} ({report['kept_bytes'] / 1e6:.1f} MB) in {report['seconds']:.0f} s")
    return out
