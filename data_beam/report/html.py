"""`report.html`: one file that opens offline and asks nothing of the network."""

from __future__ import annotations

import html
import json
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e4e7ec; --paper: #fff; --card: #f8fafc;
  --kept: #2f855a; --dropped: #d97706; --dead: #c53030; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2d3645; --paper: #12161d;
  --card: #1a2029; --kept: #48bb78; --dropped: #f0a53a; --dead: #f56565; --bar: #6b9be0; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 980px; padding: 40px 24px 80px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 44px 0 12px }
p.sub, .soft { color: var(--soft) } p.sub { margin: 4px 0 24px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
.card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums } .card span { color: var(--soft) }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600; color: var(--soft) }
td, th { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: middle }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.w { width: 45% }
.track { display: flex; height: 14px; border-radius: 4px; overflow: hidden; background: var(--line) }
.track i { display: block; height: 100% }
.columns { display: flex; align-items: flex-end; gap: 4px; height: 170px; border-bottom: 1px solid var(--line) }
.columns div { flex: 1; display: flex; flex-direction: column; justify-content: flex-end; height: 100%;
  text-align: center; font-size: 11px; color: var(--soft) }
.columns i { display: block; background: var(--bar); border-radius: 3px 3px 0 0; min-height: 1px }
.labels { display: flex; gap: 4px; font-size: 11px; color: var(--soft) } .labels span { flex: 1; text-align: center }
details { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; margin: 8px 0; background: var(--card) }
summary { cursor: pointer }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; margin: 6px 0 12px }
.tag { display: inline-block; font-size: 12px; border-radius: 99px; padding: 0 9px; border: 1px solid var(--line) }
"""


def render(report: dict[str, Any]) -> str:
    """The page for the numbers of `report.json`; nothing on it that is not in them."""
    parts = [
        f"<h1>Curation report</h1><p class=sub>{_text(report['config']['output']['path'])} · "
        f"{report['seconds']:.0f} seconds · config {report['fingerprint'][:12]}</p>",
        _cards(report),
        _section("Funnel", "What each stage took away. The bar is the share of all documents read.", _funnel(report)),
        _section("Why documents were dropped", "", _reasons(report)),
        _section("Sources", "", _sources(report)),
        _section(
            "Language", "Of the documents kept; source code counts as its programming language.", _languages(report)
        ),
        _section("Years", "Of the documents kept: of their dates, else of the files they came in.", _years(report)),
        *_contamination(report),
        _section("Length", "Characters of the documents kept, by powers of two.", _lengths(report)),
        _section("What was dropped", "A few documents of each reason, always the same ones.", _samples(report)),
        _section("Settings", "", _settings(report)),
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Curation report</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, note: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{f'<p class=soft>{note}</p>' if note else ''}{body}</section>"


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _percent(part: float, whole: float) -> str:
    return f"{_share(part, whole):.1f}\u00a0%"


def _track(whole: float, *parts: tuple[float, str]) -> str:
    bars = "".join(
        f"<i style='width:{_share(part, whole):.3f}%;background:var(--{colour})'></i>" for part, colour in parts
    )
    return f"<div class=track>{bars}</div>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A column whose heading starts with # holds numbers; one that starts with | a bar."""
    kinds = [{"#": " class=n", "|": " class=w"}.get(name[:1], "") for name in head]
    top = "".join(f"<th{kind}>{name.lstrip('#|')}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cards(report: dict[str, Any]) -> str:
    read = report["read"]
    cards = [(f"{read:,}", "documents read")]
    for name in ("kept", "dropped", "dead"):
        title = "dead letters" if name == "dead" else name
        cards.append((f"{report[name]:,}", f"{title} · {_percent(report[name], read)}"))
    cards.append((f"{report['kept_bytes'] / 1e6:,.1f} MB", "of text kept"))
    return (
        "<div class=cards>" + "".join(f"<div class=card><b>{n}</b><span>{t}</span></div>" for n, t in cards) + "</div>"
    )


def _funnel(report: dict[str, Any]) -> str:
    read = report["read"]
    rows = [
        [
            row["stage"],
            _track(read, (row["out"], "kept"), (row["dropped"], "dropped"), (row["dead"], "dead")),
            f"{row['in']:,}",
            f"{row['dropped']:,}",
            f"{row['dead']:,}",
            f"{row['out']:,}",
        ]
        for row in report["funnel"]
    ]
    return _table(["stage", "|left, dropped, failed", "#in", "#dropped", "#failed", "#out"], rows)


def _reasons(report: dict[str, Any]) -> str:
    found = [(count, reason, "dropped") for reason, count in report["reasons"].items()]
    found += [(count, f"failed in {stage}", "dead") for stage, count in report["dead_stages"].items()]
    if not found:
        return "<p>Nothing was dropped.</p>"
    most = max(count for count, _, _ in found)
    rows = [
        [_text(reason), _track(most, (count, colour)), f"{count:,}", _percent(count, report["read"])]
        for count, reason, colour in sorted(found, key=lambda item: (-item[0], item[1]))
    ]
    return _table(["reason", "|", "#documents", "#of read"], rows)


def _sources(report: dict[str, Any]) -> str:
    total = report["kept_bytes"]
    rows = [
        [
            _text(name),
            _track(total, (row["bytes"], "kept")),
            f"{row['documents']:,}",
            f"{row['bytes'] / 1e6:,.2f}",
            f"{row['bytes'] / max(1, row['documents']):,.0f}",
        ]
        for name, row in sorted(report["sources"].items(), key=lambda item: -item[1]["bytes"])
    ]
    return _table(["source", "|share of kept text", "#documents", "#MB", "#bytes a document"], rows)


def _languages(report: dict[str, Any]) -> str:
    found = sorted(report["languages"].items(), key=lambda item: (-item[1], item[0]))[:25]
    most = max((count for _, count in found), default=0)
    rows = [
        [_text(name), _track(most, (count, "bar")), f"{count:,}", _percent(count, report["kept"])]
        for name, count in found
    ]
    return _table(["language", "|", "#documents", "#of kept"], rows)


def _years(report: dict[str, Any]) -> str:
    most = max(report["years"].values(), default=0)
    rows = [
        [_text(year), _track(most, (count, "bar")), f"{count:,}", _percent(count, report["kept"])]
        for year, count in sorted(report["years"].items())
    ]
    return _table(["year", "|", "#documents", "#of kept"], rows)


def _contamination(report: dict[str, Any]) -> list[str]:
    if "contamination" not in report:
        return []
    head = [
        "benchmark",
        "#items",
        "#texts too short",
        "#items found",
        "#documents dropped",
        "#most of an item",
    ]
    rows = [
        [
            _text(name),
            *(f"{row[key]:,}" for key in ("items", "too_short", "items_found", "documents_dropped")),
            f"{row['max_fraction']:.2f}",
        ]
        for name, row in report["contamination"]["benchmarks"].items()
    ]
    note = "Evaluation items that documents contained; the items and where they stood are in contamination.json."
    return [_section("Contamination", note, _table(head, rows))]


def _lengths(report: dict[str, Any]) -> str:
    counts = {int(power): count for power, count in report["lengths"].items()}
    if not counts:
        return "<p>Nothing was kept.</p>"
    powers = range(min(counts), max(counts) + 1)
    most = max(counts.values())
    columns = "".join(
        f"<div>{counts.get(power, 0):,}<i style='height:{_share(counts.get(power, 0), most):.1f}%'></i></div>"
        for power in powers
    )
    labels = "".join(f"<span>{_short(2**power)}</span>" for power in powers)
    return f"<div class=columns>{columns}</div><div class=labels>{labels}</div>"


def _short(number: int) -> str:
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)


def _samples(report: dict[str, Any]) -> str:
    parts = []
    for reason, samples in report["samples"].items():
        body = ""
        for sample in samples:
            value = "" if sample["value"] is None else f" <span class=tag>{_text(sample['value'])}</span>"
            body += (
                f"<div><span class=soft>{_text(sample['where'])}</span>{value}<pre>{_text(sample['text'])}</pre></div>"
            )
        count = report["reasons"].get(reason)
        title = f"{_text(reason)}{f' <span class=soft>· {count:,}</span>' if count else ''}"
        parts.append(f"<details><summary>{title}</summary>{body}</details>")
    return "".join(parts) or "<p>Nothing was dropped.</p>"


def _settings(report: dict[str, Any]) -> str:
    config = _text(json.dumps(report["config"], indent=2, ensure_ascii=False))
    return f"<details><summary>the config of this run</summary><pre>{config}</pre></details>"
