"""``trt-afdet detect``: find objects in pictures and videos."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trt_afdet import __version__
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.cli import ui
from trt_afdet.cli.journal import Journal
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.support import files

if TYPE_CHECKING:
    from trt_afdet.detections import Detections
    from trt_afdet.media import InputFrame, Inputs
    from trt_afdet.runtime.detector import Detector

SUMMARY = "find objects in pictures, folders, globs and video files"

EPILOG = """\
examples:
  trt-afdet detect street.mp4 --model model.onnx --out annotated.mp4 --jsonl boxes.jsonl
  trt-afdet detect 'pictures/*.jpg' --out annotated/ --conf 0.5 --classes imp barrel
  trt-afdet detect a.jpg pictures/ monday.mp4 tuesday.mp4 --out annotated/ --resume
  trt-afdet detect street.mp4 --jsonl - | jq .detections
  trt-afdet detect frame.png --show

If some files cannot be read, a warning names each, the others are processed, and the exit status
is 1. Output files appear when they are complete. With --resume, what is done is noted
beside the output: the same command goes on after Ctrl-C, a kill or a power cut, and begins the
annotated copy of an interrupted video anew. Cameras are for trt-afdet run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="+", help="pictures, folders, globs and video files")
    add("--model", type=Path, default=SHIPPED_MODEL, help="model.onnx (default: the shipped one)")
    add("--out", type=Path, help="annotated picture or video, or a folder for any number of either")
    add("--jsonl", type=files.output_file, help="one JSON object per frame; - is standard output")
    add("--resume", action="store_true", help="go on where a --resume run was stopped or killed")
    add("--conf", type=float, default=0.3, help="lowest confidence (default: 0.3)")
    add("--iou", type=float, help="NMS IoU (default: the model's)")
    add("--max-det", type=int, help="detections per frame (default: the model's)")
    add("--classes", nargs="+", metavar="NAME", help="look for these only")
    add("--threads", type=int, help="CPU threads of the network")
    add("--batch", type=int, default=1, help="frames per step (default: 1)")
    add("--show", action="store_true", help="show a window; q or Esc stops")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.media import open_inputs
    from trt_afdet.runtime.detector import Detector

    if args.batch < 1:
        raise InvalidValueError("--batch must be at least 1", got=args.batch)
    if args.show:
        from trt_afdet.stream.sinks.window import check_screen

        check_screen("use --out instead")
    source = open_inputs(args.source, tell=ui.note)
    if args.jsonl is not None:
        files.check_output(args.jsonl)
    options = {name: getattr(args, name) for name in ("conf", "iou", "classes", "threads")}
    options["max_detections"] = args.max_det
    wanted = {name: getattr(args, name) for name in ("out", "jsonl", "batch", "show")}
    with (
        source,
        files.data_on_stdout(args.jsonl),
        _journal(args, source) as journal,
        Detector.load(args.model, **options) as detector,
    ):
        if journal is not None and journal.frames:
            ui.note(f"{journal.frames.total()} frames were done before")
        result = detect(source, detector, journal=journal, **wanted)
        print_result(result, detector)
    return report_failures(source)


@contextmanager
def _journal(args: argparse.Namespace, source: Inputs) -> Iterator[Journal | None]:
    """With --resume, the progress of an earlier run; deleted when all is done."""
    if not args.resume:
        yield None
        return
    files.check_model_path(args.model)
    if args.jsonl is not None and files.is_file_target(args.jsonl):
        path = args.jsonl.with_name(f".{args.jsonl.name}.resume")
    elif args.jsonl is None and args.out is not None:
        path = args.out / ".resume"
        if _names_a_file(args.out, source):
            path = args.out.with_name(f".{args.out.name}.resume")
    else:
        raise InvalidValueError("--resume needs files to go on with", hint="add --out or --jsonl")
    names = "\n".join(f"{path} {path.stat().st_size}" for path in source.paths)
    settings = {
        "version": __version__,
        "model": hashlib.sha256(args.model.read_bytes()).hexdigest()[:16],
        "inputs": f"{len(source.paths)} ({hashlib.sha256(os.fsencode(names)).hexdigest()[:8]})",
        "out": args.out and str(args.out),
        "jsonl": args.jsonl and str(args.jsonl),
        "conf": args.conf,
        "iou": args.iou,
        "max-det": args.max_det,
        "classes": args.classes,
    }
    with Journal(path, settings) as journal:
        yield journal


@dataclass
class Result:
    """What a run did, in so many seconds; detections of every frame only if asked for."""

    frames: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    detections: list[Detections] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def detect(
    source: Inputs,
    detector: Detector,
    *,
    out: Path | None = None,
    jsonl: Path | None = None,
    batch: int = 1,
    show: bool = False,
    keep: bool = False,
    report_from: float = 0.0,
    journal: Journal | None = None,
) -> Result:
    """Runs a detector over a source and writes the outputs.

    Args:
        source: What to read.
        detector: An open detector; its ``times`` get all stages.
        out, jsonl, batch, show: As on the command line.
        keep: Whether to keep every frame's detections in the result.
        report_from: Leave less confident ones out of everything but what is kept.
        journal: What an earlier run has done; gets what this one does.
    """
    result = Result()
    start = time.perf_counter()
    go_on = True
    with ExitStack() as stack:
        outputs = _Outputs(source, out, jsonl, show, journal, stack)
        source.is_done, source.is_known = outputs.is_done, outputs.is_known
        frames = iter(ui.progress(_timed(source, detector), source.total, "detecting"))
        while go_on and (group := list(islice(frames, batch))):
            found = detector([frame.image for frame in group])
            for frame, everything in zip(group, found, strict=True):
                detections = everything[everything.confidence >= report_from]
                with detector.times.measure("write"):
                    go_on = outputs.write(frame, detections)
                result.frames += 1
                result.counts.update(detections.names)
                if keep:
                    result.detections.append(everything)
        outputs.finish()
    if journal is not None and go_on:
        journal.path.unlink(missing_ok=True)
    result.seconds = time.perf_counter() - start
    result.written = outputs.written
    return result


def _timed(frames: Iterable[InputFrame], detector: Detector) -> Iterator[InputFrame]:
    """Records the time each frame takes to decode."""
    start = time.perf_counter()
    for frame in frames:
        detector.times.record("decode", time.perf_counter() - start)
        yield frame
        start = time.perf_counter()


@dataclass
class _Outputs:
    """Annotated pictures and videos, records, window: whatever was asked for."""

    source: Inputs
    out: Path | None
    jsonl: Path | None
    show: bool
    journal: Journal | None
    stack: ExitStack
    written: list[Path] = field(default_factory=list)
    _video: Any = None
    _video_file: ExitStack = field(default_factory=ExitStack)
    _current: Path | None = None
    _lines: IO[str] | None = None

    def __post_init__(self) -> None:
        """Opens the files; the place of an annotated copy is never that of a source."""
        from trt_afdet.media import VideoWriter

        self.targets = {} if self.out is None else _choose_targets(self.out, self.source)
        targets = [*self.targets.values(), *filter(None, [self.jsonl])]
        targets = [target for target in targets if os.path.lexists(target)]
        sources = {os.path.realpath(path) for path in self.source.paths} if targets else set()
        for target in targets:
            if os.path.realpath(target) in sources:
                option = "--jsonl" if target is self.jsonl else "--out"
                what = f"{option} would overwrite its own source"
                raise InvalidValueError(what, got=target, hint="use another name")
        if self.jsonl is not None:
            if self.journal is None:
                self._lines = self.stack.enter_context(files.open_output(self.jsonl))
            self.written.append(self.jsonl)
        if self.out is not None:
            one_video = self.source.is_video
            target = self.targets[self.source.paths[0]] if one_video else self.out
            self.written.append(target)
            if one_video:  # Find out now whether it can be written.
                VideoWriter(target, 25.0)
                files.check_output(target)
        self.stack.enter_context(self._video_file)

    def is_done(self, path: Path) -> bool:
        """Whether an earlier run has done a file; see :class:`Journal`."""
        if self.journal is None or (path in self.targets and not self.targets[path].exists()):
            return False
        name = str(path)
        return name in self.journal.ended or (
            path not in self.source.videos and self.journal.frames[name] > 0
        )

    def is_known(self, frame: InputFrame) -> bool:
        """Whether an earlier run has done a frame of a video without an annotated copy."""
        if self.journal is None or frame.path in self.targets or self.show:
            return False
        return frame.index < self.journal.frames[str(frame.path)]

    def write(self, frame: InputFrame, found: Detections) -> bool:
        """Takes one frame; False if the window was closed."""
        from trt_afdet.media import VideoWriter, write_picture
        from trt_afdet.records import dumps

        path, target = frame.path, self.targets.get(frame.path)
        is_video = path in self.source.videos
        if path != self._current:
            self._end_current()
            self._current = path
            if is_video and target is not None:
                writer = VideoWriter(target, self.source.rates[path] or 25.0)
                self._video = self._video_file.enter_context(writer)
        record = frame_record(frame, found)
        if self._lines is not None:
            self._lines.write(f"{dumps(record)}\n")
        drawn = found.draw(frame.image) if target is not None or self.show else frame.image
        if self._video is not None:
            self._video.write(drawn, (frame.timestamp_ms or 0.0) / 1000)
        elif target is not None:
            write_picture(target, drawn)
        if self.journal is not None:
            before = self.journal.frames[str(path)]
            if frame.index >= before if is_video else not before:
                self.journal.frame(path, record)
        return self._show(drawn) if self.show else True

    def _end_current(self) -> None:
        """Everything of a source was written."""
        self._video = None
        self._video_file.close()
        if self.journal and self._current and self._current in self.source.videos:
            self.journal.end(self._current)
        self._current = None

    def finish(self) -> None:
        """Ends the last source, and writes the findings of an earlier run and this one."""
        from trt_afdet.records import dumps

        self._end_current()
        if self.journal is not None and self.jsonl is not None:
            with files.open_output(self.jsonl) as file:
                file.writelines(f"{dumps(record)}\n" for record in self.journal.records())

    def _show(self, image: Any) -> bool:
        import cv2

        try:
            cv2.imshow("trt-afdet", image)
            key = cv2.waitKey(1 if self.source.is_video else 0) & 0xFF
        except cv2.error as error:
            hint = "is there a screen? use --out instead"
            raise RunError("no window can be shown", hint=hint) from error
        return key not in (ord("q"), 27)


def _choose_targets(out: Path, source: Inputs) -> dict[Path, Path]:
    """Where each source's annotated copy goes: no two to one place."""
    from trt_afdet.media.suffixes import WRITABLE_PICTURES

    if _names_a_file(out, source):
        return {source.paths[0]: out}
    # Below the folder that all sources share. Thousands of files lie in few folders.
    folders = {folder: folder.resolve() for folder in {path.parent for path in source.paths}}
    shared = Path(os.path.commonpath(list(folders.values())))
    names = {p: folders[p.parent].relative_to(shared) / p.name for p in source.paths}
    stems = Counter(names[path].with_suffix("") for path in source.videos)
    targets: dict[Path, Path] = {}
    for path, name in names.items():
        if path in source.videos and name.suffix != ".mp4":
            unique = stems[name.with_suffix("")] == 1
            name = name.with_suffix(".mp4") if unique else name.with_name(f"{name.name}.mp4")
        elif path not in source.videos and name.suffix.lower() not in WRITABLE_PICTURES:
            name = name.with_name(f"{name.name}.png")
        targets[path] = out / name
    return targets


def _names_a_file(out: Path, source: Inputs) -> bool:
    """Whether --out is a file, not a folder; an error if it does not fit the source."""
    from trt_afdet.media.suffixes import WRITABLE_PICTURES, WRITABLE_VIDEOS

    if out.is_dir():
        return False
    if out == files.STDOUT or (out.exists() and not out.suffix):
        what = "--out needs a name whose ending tells the format"
        raise InvalidValueError(what, got=out, hint="JSON lines can go there: --jsonl")
    if not out.suffix:
        return False
    known = WRITABLE_VIDEOS if source.is_video else WRITABLE_PICTURES
    if len(source.paths) != 1:
        raise InvalidValueError("--out does not fit several sources", got=out, hint="name a folder")
    if out.suffix.lower() not in known:
        kind = "a video" if source.is_video else "a picture"
        hint = f"name a folder, or a file in {', '.join(known)}"
        raise InvalidValueError(f"--out does not fit {kind}", got=out, hint=hint)
    return True


def frame_record(frame: InputFrame, found: Detections) -> dict[str, Any]:
    """What JSON lines say of one frame."""
    from trt_afdet.records import make_record, result_fields

    seconds = None if frame.timestamp_ms is None else frame.timestamp_ms / 1000
    fields = result_fields(found, frame.image, str(frame.path), frame.index, seconds)
    return make_record("result", fields)


def print_result(result: Result, detector: Detector) -> None:
    """The tables of a run: stages, frames, classes, files."""
    rows = [[s, f"{p50:.2f}", f"{p95:.2f}"] for s, p50, p95 in detector.times.rows()]
    ui.table("milliseconds per frame", ["stage", "p50", "p95"], rows)
    if result.counts:
        counts = [[name, str(count)] for name, count in result.counts.most_common()]
        ui.table("detections", ["class", "count"], counts)
    else:
        print("no detections")
    rate = result.frames / result.seconds if result.seconds else 0.0
    print(f"{result.frames} frames in {result.seconds:.1f} s, {rate:.1f} frames/s")
    for path in result.written:
        print(f"wrote {path}")


def report_failures(source: Inputs) -> int:
    """Names what could not be read; the exit status."""
    for error in source.failed:
        ui.warn(str(error))
    return 1 if source.failed else 0
