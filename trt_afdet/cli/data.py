"""``trt-afdet data``: check, convert and make datasets."""

from __future__ import annotations

import argparse
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

from trt_afdet.cli import training_missing, ui
from trt_afdet.errors import InvalidValueError

SUMMARY = "check or convert a dataset; `data doom` films one in Doom"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = """\
examples:
  trt-afdet data check my-data --out sheet.png
  trt-afdet data convert my-data my-data-yolo --to yolo --link
  trt-afdet data doom data/doom --split train --frames 7000 --seed 1 --workers 4
"""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    text = "Read a dataset as training does, decode every picture, and print all findings. "
    text += "The files on disk tell COCO, VOC and YOLO apart."
    summary = "list the contents and the faults of a dataset"
    check = kinds.add_parser("check", help=summary, description=text)
    check.add_argument("path", metavar="PATH", help="the folder, .json or .yaml")
    check.add_argument("--split", metavar="NAME", help="only this one (default: all)")
    check.add_argument("--out", type=Path, metavar="SHEET.png", help="contact sheet with boxes")
    check.add_argument("--strict", action="store_true", help="exit with 2 if there is any fault")
    check.set_defaults(work=_check)
    text = "Write all splits of a dataset in another format, with the same class list."
    summary = "write a dataset in another format"
    convert = kinds.add_parser("convert", help=summary, description=text)
    convert.add_argument("path", metavar="FROM", help="the folder, .json or .yaml")
    convert.add_argument("target", type=Path, metavar="TO", help="a new folder")
    forms = ("coco", "voc", "yolo")
    convert.add_argument("--to", required=True, choices=forms, dest="form", help="the format")
    convert.add_argument("--split", metavar="NAME", help="only this one (default: all)")
    convert.add_argument("--link", action="store_true", help="link to the pictures, do not copy")
    convert.set_defaults(work=_convert)
    for point in entry_points(group="trt_afdet.commands", name="data"):
        try:
            module = point.load()
        except ImportError:
            break
        module.add_kinds(kinds)
        return
    missing = kinds.add_parser("doom", help="film one in Doom (needs trt-afdet[train])")
    missing.add_argument("rest", nargs=argparse.REMAINDER)
    missing.set_defaults(work=_no_training)


def _no_training(_: argparse.Namespace) -> int:
    raise training_missing("`data doom`")


def run(args: argparse.Namespace) -> int:
    return int(args.work(args))


def _check(args: argparse.Namespace) -> int:
    from trt_afdet.datasets import dataset_format
    from trt_afdet.datasets.convert import merged_report, open_all

    if args.out is not None and args.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        what = "the contact sheet is a picture"
        raise InvalidValueError(what, got=args.out, hint="use .png or .jpg")
    opened = open_all(args.path, args.split, decode=True, progress=ui.progress)
    rows = []
    for split, data in opened.items():
        counts = [len(r.boxes) for r in data.records]
        ignored = sum(int(r.ignored.sum()) for r in data.records)
        figures = (len(counts), counts.count(0), sum(counts), ignored)
        rows.append([split or "all", *map(str, figures)])
    columns = ["split", "pictures", "without labels", "objects", "of them ignored"]
    ui.table(f"{args.path} ({dataset_format(args.path)})", columns, rows)
    names = next(iter(opened.values())).class_names
    records = [record for data in opened.values() for record in data.records]
    labels = Counter(label for record in records for label in record.labels.tolist())
    rows = [[name, str(labels[label])] for label, name in enumerate(names)]
    ui.table("classes", ["class", "objects"], rows)
    report = merged_report(opened.values())
    if not labels:
        report.add("pictures and no label at all", str(args.path), len(records))
    for line in report.lines() or ["nothing is wrong"]:
        print(line)
    if args.out is not None:
        from trt_afdet.datasets.sheet import contact_sheet
        from trt_afdet.media import write_picture

        write_picture(args.out, contact_sheet(list(opened.values())))
        print(f"contact sheet: {args.out}")
    return 2 if args.strict and report.faults else 0


def _convert(args: argparse.Namespace) -> int:
    from trt_afdet.datasets.convert import convert, merged_report

    written = convert(
        args.path, args.target, args.form, split=args.split, link=args.link, progress=ui.progress
    )
    for line in merged_report(written.values()).lines():
        ui.warn(line)
    for split, data in written.items():
        objects = sum(len(r.boxes) for r in data.records)
        print(f"{split}: {len(data.records)} pictures, {objects} objects")
    print(f"wrote {args.target} ({args.form}, {len(data.class_names)} classes)")
    return 0
