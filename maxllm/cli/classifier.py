"""Train a text classifier on your own labelled texts, score texts with one, measure one.

train reads a config (kind: classifier): labelled JSON lines or CSV, or files of good texts against files of others. It
writes OUT/model.json and a fastText model per head, calibrated, and OUT/report.html: figures on held-out texts, a
reliability plot, the threshold chosen. score prints a JSON object of scores for every text; evaluate compares with
labels. `maxllm curate` applies models to documents: see its setting `classifiers`.

examples:
  maxllm classifier train classify/quality 'heads.quality.data=[{paths: [rated.jsonl.gz], label_key: grade}]'
  maxllm classifier score runs/quality pages.jsonl.gz --text-key content
"""

from __future__ import annotations

import argparse
import json

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.classify import ClassifierConfig, ClassifierTrainConfig, LabelledFiles

BATCH = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="labelled texts in, a calibrated model and its report out")
    add_config_arguments(train)
    train.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")
    for name, what in (
        ("score", "the scores of every text, a line each"),
        ("evaluate", "figures against known labels"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("model", metavar="MODEL", help="a trained folder, a fastText file, a Hugging Face model")
        action.add_argument("files", metavar="FILE", nargs="+", help=".jsonl, .csv, .tsv, .txt; also .gz, .zst")
        action.add_argument("--text-key", default="text")
        action.add_argument("--label", help="of a bare fastText file: the label whose probability is the score")
        if name == "evaluate":
            action.add_argument("--label-key", default="label")
            action.add_argument("--head", help="of a model with several; the only one otherwise")
            action.add_argument(
                "--positive", metavar="LABEL", help="what a lone score speaks for, when labels are words"
            )


def run(args: argparse.Namespace) -> int:
    log_progress()
    return {"train": _train, "score": _score, "evaluate": _evaluate}[args.action](args)


def _train(args: argparse.Namespace) -> int:
    config = load(args, ClassifierTrainConfig)
    from data_beam.classify.training import train
    from maxllm.summary import say

    report = train(config, force=args.force)
    figures = []
    for name, head in report["heads"].items():
        test = head.get("test", {})
        shown = [f"{label} {test[key]:.3f}" for key, label in SHOWN if test.get(key) is not None]
        figures.append(f"{name}: {', '.join(shown) or 'not tested'}")
    say(f"{config.output}: {'; '.join(figures)}; {report['bytes'] / 1e6:.1f} MB; see {config.output}/report.html")
    return 0


SHOWN = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("roc_auc", "ROC AUC"),
    ("calibration_error", "calibration error"),
)


def _model(args: argparse.Namespace):
    from data_beam.classify.classifier import load_classifier

    return load_classifier(ClassifierConfig(name="model", model=args.model, label=args.label))


def _score(args: argparse.Namespace) -> int:
    from data_beam.classify.examples import batches

    model = _model(args)
    files = LabelledFiles(paths=args.files, text_key=args.text_key, label="none")
    for examples in batches(files, "FILE", BATCH):
        for scores in model.score([example.text for example in examples]):
            print(json.dumps(scores, ensure_ascii=False))
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from data_beam.classify.evaluation import evaluate_files

    files = LabelledFiles(paths=args.files, text_key=args.text_key, label_key=args.label_key)
    print(json.dumps(evaluate_files(_model(args), files, args.head, args.positive), indent=1, ensure_ascii=False))
    return 0
