"""A trained model's `report.html`: figures on held-out texts, never a text."""

from __future__ import annotations

import html
import json
from typing import Any

from data_beam.report.html import STYLE

EXTRA = """
svg { max-width: 100%; height: auto } svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px }
"""
MOST_LABELS = 30  # in the table of confusions


def render(report: dict[str, Any]) -> str:
    parts = [
        f"<h1>Classifier report</h1><p class=sub>{_text(report['config']['output'])} · model {report['model']} · "
        f"seed {report['seed']} · {report['bytes'] / 1e6:.1f} MB · trained in {report['seconds']:.0f} seconds</p>"
    ]
    parts += [_head(name, head) for name, head in report["heads"].items()]
    config = _text(json.dumps(report["config"], indent=2, ensure_ascii=False))
    parts.append(f"<h2>Settings</h2><details><summary>the config of this run</summary><pre>{config}</pre></details>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Classifier report</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}{EXTRA}</style><body>{''.join(parts)}</body></html>"
    )


def _head(name: str, head: dict[str, Any]) -> str:
    title = f"<h2>{_text(name)}</h2>"
    counts = {side: sum(labels.values()) for side, labels in head["counts"].items()}
    cards = [(f"{counts[side]:,}", f"texts to {side}") for side in counts]
    test = head.get("test")
    if test is None:
        return title + _cards(cards) + "<p>No text was left to test on.</p>"
    cards += [(_figure(test["accuracy"]), "accuracy"), (_figure(test["macro_f1"]), "macro F1")]
    if test.get("roc_auc") is not None:
        cards.append((_figure(test["roc_auc"]), "ROC AUC"))
    if test.get("regression"):
        cards.append((_figure(test["regression"]["correlation"]), "correlation"))
        cards.append((_figure(test["regression"]["mean_absolute_error"]), "mean absolute error"))
    parts = [title, _cards(cards), _chosen(name, head), _labels(head)]
    parts.append(
        "<h3>Reliability</h3><p class=soft>Of texts given a probability, how often it was so. On the diagonal is true; "
        f"the circles' areas are numbers of texts. Temperature {head['temperature']:.3f}, fitted on other texts.</p>"
        "<div class=pair>"
        + _reliability(head["uncalibrated"], "as trained", test["log_loss_uncalibrated"])
        + _reliability(test, "calibrated: what scores are", test["log_loss"])
        + "</div>"
    )
    if test.get("sweep"):
        parts.append("<h3>Other thresholds</h3>" + _sweep(test["sweep"]))
    if len(head["labels"]) <= MOST_LABELS:
        parts.append("<h3>Said (columns) of what it was (rows)</h3>" + _confusion(head["labels"], test["confusion"]))
    return "".join(parts)


def _chosen(name: str, head: dict[str, Any]) -> str:
    if head["threshold"] is None:
        return ""
    figures = head["test"].get("at_threshold")
    text = (
        f"<p>Threshold of best F1 on the texts that calibrate: <b>{head['threshold']:.6g}</b> "
        f"(<code>rules: {{{_text(name)}: {{min_score: {head['threshold']:.6g}}}}}</code>)."
    )
    if figures:
        text += (
            f" On the texts that test: precision {_figure(figures['precision'])}, recall {_figure(figures['recall'])}, "
            f"F1 {_figure(figures['f1'])}, {figures['called']:.1%} kept."
        )
    return text + "</p>"


def _labels(head: dict[str, Any]) -> str:
    rows = [
        [
            _text(label),
            *(f"{head['counts'][side][label]:,}" for side in head["counts"]),
            *(_figure(figures[key]) for key in ("precision", "recall", "f1", "roc_auc")),
        ]
        for label, figures in head["test"]["labels"].items()
    ]
    return _table(["label", *head["counts"], "precision", "recall", "F1", "ROC AUC"], rows)


def _sweep(rows: list[dict[str, float]]) -> str:
    return _table(
        ["threshold", "precision", "recall", "F1", "kept"],
        [
            [f"{row['threshold']:.3f}", *(_figure(row[k]) for k in ("precision", "recall", "f1", "called"))]
            for row in rows
        ],
    )


def _confusion(labels: list[str], confusion: list[list[int]]) -> str:
    rows = [[_text(label), *(f"{count:,}" for count in row)] for label, row in zip(labels, confusion, strict=True)]
    return _table(["", *map(_text, labels)], rows)


def _reliability(figures: dict[str, Any], title: str, log_loss: float) -> str:
    """An SVG of 300 x 300 inside a margin."""
    rows = [row for row in figures["reliability"] if row["count"]]
    most = max((row["count"] for row in rows), default=1)
    marks = "".join(
        f"<circle cx='{40 + 300 * row['predicted']:.1f}' cy='{310 - 300 * row['observed']:.1f}' "
        f"r='{3 + 11 * (row['count'] / most) ** 0.5:.1f}' fill='var(--bar)' fill-opacity='.7'>"
        f"<title>{row['count']:,} texts: {row['predicted']:.3f} predicted, {row['observed']:.3f} so</title></circle>"
        for row in rows
    )
    ticks = "".join(
        f"<text x='{40 + 300 * tick}' y='326' text-anchor='middle'>{tick:g}</text>"
        f"<text x='32' y='{314 - 300 * tick}' text-anchor='end'>{tick:g}</text>"
        for tick in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f"<figure style='margin:0'><svg viewBox='0 0 350 350' role='img' aria-label='reliability, {title}'>"
        "<rect x='40' y='10' width='300' height='300' fill='none' stroke='var(--line)'/>"
        f"<line x1='40' y1='310' x2='340' y2='10' stroke='var(--soft)' stroke-dasharray='4 4'/>{marks}{ticks}"
        "<text x='190' y='344' text-anchor='middle'>probability given</text>"
        "<text x='12' y='160' text-anchor='middle' transform='rotate(-90 12 160)'>share that was so</text></svg>"
        f"<figcaption class=soft>{title}: expected calibration error {figures['calibration_error']:.4f}, "
        f"log loss {log_loss:.4f}</figcaption></figure>"
    )


def _cards(cards: list[tuple[str, str]]) -> str:
    return (
        "<div class=cards>" + "".join(f"<div class=card><b>{n}</b><span>{t}</span></div>" for n, t in cards) + "</div>"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    """The first column is text, all others numbers."""
    top = "".join(f"<th{' class=n' if i else ''}>{name}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _text(value: Any) -> str:
    return html.escape(str(value))
