"""``trt-afdet detect``: find objects in pictures and videos."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_afdet.detections import Detections
    from trt_afdet.media import MediaFrame, Source
    from trt_afdet.runtime.detector import Detector

SUMMARY = "find objects in pictures, folders, globs and video files"

EPILOG = """\
examples:
  trt-afdet detect street.mp4 --model model.onnx --out annotated.mp4 --jsonl boxes.jsonl
  trt-afdet detect 'pictures/*.jpg' --out annotated/ --conf 0.5 --classes imp barrel
  trt-afdet detect frame.png --show

A folder's or glob's unreadable pictures are named in a warning; the others are done, and the exit
status is 1. Output files appear when they are complete.
"""

#: The detector that ships with the package.
SHIPPED_MODEL = Path(__file__).parents[1] / "assets" / "model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SOURCE", help="picture, folder, glob or video file")
    parser.add_argument(
        "--model", type=Path, default=SHIPPED_MODEL, help="model.onnx (default: the shipped one)"
    )
    parser.add_argument(
        "--out", type=Path, help="annotated picture or video, or a folder for either"
    )
    parser.add_argument("--jsonl", type=Path, help="one JSON object per frame")
    parser.add_argument("--conf", type=float, default=0.3, help="lowest confidence (default: 0.3)")
    parser.add_argument("--iou", type=float, help="NMS IoU (default: the model's)")
    parser.add_argument("--max-det", type=int, help="detections per frame (default: the model's)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="look for these only")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    parser.add_argument("--batch", type=int, default=1, help="frames per step (default: 1)")
    parser.add_argument("--show", action="store_true", help="show a window; q or Esc stops")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.errors import InvalidValueError
    from trt_afdet.media import open_source
    from trt_afdet.runtime.detector import Detector

    if args.batch < 1:
        raise InvalidValueError("--batch must be at least 1", got=args.batch)
    source = open_source(args.source)
    with (
        source,
        Detector.load(
            args.model,
            conf=args.conf,
            iou=args.iou,
            max_detections=args.max_det,
            classes=args.classes,
            threads=args.threads,
        ) as detector,
    ):
        result = detect(
            source, detector, out=args.out, jsonl=args.jsonl, batch=args.batch, show=args.show
        )
    print_result(result, detector)
    return report_failures(source)


@dataclass
class Result:
    """What a run did.

    Attributes:
        frames: Frames done.
        seconds: Wall time of the loop.
        counts: Detections per class name.
        detections: Of every frame, if asked for.
        written: Files that were written.
    """

    frames: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    detections: list[Detections] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)


def detect(
    source: Source,
    detector: Detector,
    *,
    out: Path | None = None,
    jsonl: Path | None = None,
    batch: int = 1,
    show: bool = False,
    keep: bool = False,
    report_from: float = 0.0,
) -> Result:
    """Runs a detector over a source and writes what is asked for.

    Args:
        source: An open source.
        detector: An open detector; its ``times`` get all stages.
        out: File or folder of the annotated pictures or video.
        jsonl: File of one JSON object per frame.
        batch: Frames per step.
        show: Whether to show a window.
        keep: Whether to keep every frame's detections in the result.
        report_from: Leave less confident ones out of everything but what is kept.

    Raises:
        AfdetError: For a bad source or output; nothing half-written stays.
    """
    from trt_afdet.cli import ui

    result = Result()
    start = time.perf_counter()
    with ExitStack() as stack:
        sinks = stack.enter_context(_Sinks(source, out, jsonl, show))
        frames = _timed(iter(source), detector)
        for group in _groups(ui.progress(frames, source.total, "detecting"), batch):
            found = detector([frame.image for frame in group])
            for frame, everything in zip(group, found, strict=True):
                detections = everything[everything.confidence >= report_from]
                with detector.times.measure("write"):
                    go_on = sinks.write(frame, detections)
                result.frames += 1
                result.counts.update(detections.names)
                if keep:
                    result.detections.append(everything)
            if not go_on:
                break
    result.seconds = time.perf_counter() - start
    result.written = sinks.written
    return result


def _timed(frames: Iterator[MediaFrame], detector: Detector) -> Iterator[MediaFrame]:
    """Records the time each frame takes to decode."""
    while True:
        start = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        detector.times.record("decode", time.perf_counter() - start)
        yield frame


def _groups(frames: Iterator[MediaFrame], size: int) -> Iterator[list[MediaFrame]]:
    group: list[MediaFrame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _relative_names(paths: list[Path]) -> dict[Path, Path]:
    """Each file's path below the folder they share: two of one name never meet in --out."""
    shared = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    return {path: path.resolve().relative_to(shared) for path in paths}


class _Sinks:
    """Annotated pictures or video, JSON lines, window: whatever was asked for."""

    def __init__(self, source: Source, out: Path | None, jsonl: Path | None, show: bool) -> None:
        from trt_afdet.errors import InvalidValueError
        from trt_afdet.media.suffixes import WRITABLE_PICTURES, WRITABLE_VIDEOS

        self.source = source
        self.out = out
        self.jsonl = jsonl
        self.show = show
        self.written: list[Path] = []
        self._stack = ExitStack()
        self._video: Any = None
        self._lines: IO[str] | None = None
        self._is_file = out is not None and out.suffix != "" and not out.is_dir()
        if self._is_file and out is not None:
            known = WRITABLE_VIDEOS if source.is_video else WRITABLE_PICTURES
            if out.suffix.lower() not in known or (not source.is_video and len(source.paths) != 1):
                kind = "a video" if source.is_video else "pictures"
                raise InvalidValueError(
                    f"--out does not fit {kind}",
                    got=out,
                    hint=f"name a folder, or a file in {', '.join(known)}"
                    if source.is_video or len(source.paths) == 1
                    else "name a folder",
                )
        self._names = _relative_names(source.paths)
        self._refuse_to_overwrite()

    def _refuse_to_overwrite(self) -> None:
        """Annotated files must never take the place of the ones they were made from."""
        from trt_afdet.errors import InvalidValueError

        sources = {path.resolve() for path in self.source.paths}
        for path in self.source.paths:
            target = self._target(path)
            if target is not None and target.resolve() in sources:
                raise InvalidValueError(
                    "--out would overwrite its own source", got=target, hint="name another folder"
                )

    def _target(self, path: Path) -> Path | None:
        """Where a source's annotated copy goes."""
        if self.out is None or self._is_file:
            return self.out
        from trt_afdet.media.suffixes import WRITABLE_PICTURES

        name = self._names[path]
        if self.source.is_video:
            return self.out / name.with_suffix(".mp4")
        if name.suffix.lower() not in WRITABLE_PICTURES:
            name = name.with_name(f"{name.name}.png")
        return self.out / name

    def __enter__(self) -> _Sinks:
        from trt_afdet.files import atomic_path
        from trt_afdet.media import VideoSource, VideoWriter

        with ExitStack() as stack:  # Closes what is open already if the next cannot be opened.
            if self.jsonl is not None:
                path = stack.enter_context(atomic_path(self.jsonl))
                self._lines = stack.enter_context(path.open("w", encoding="utf-8"))
                self.written.append(self.jsonl)
            if self.out is not None and isinstance(self.source, VideoSource):
                path = self._target(self.source.paths[0]) or self.out
                self._video = stack.enter_context(VideoWriter(path, self.source.write_fps))
                self.written.append(path)
            elif self.out is not None:
                self.written.append(self.out)
            self._stack = stack.pop_all()
        return self

    def write(self, frame: MediaFrame, found: Detections) -> bool:
        """Takes one frame; False if the window was closed."""
        from trt_afdet.media import write_picture

        if self._lines is not None:
            json.dump(json_line(frame, found), self._lines, ensure_ascii=False)
            self._lines.write("\n")
        if self.out is None and not self.show:
            return True
        drawn = found.draw(frame.image)
        if self._video is not None:
            self._video.write(drawn, (frame.timestamp_ms or 0.0) / 1000)
        elif (target := self._target(frame.path)) is not None:
            write_picture(target, drawn)
        return self._show(drawn) if self.show else True

    def _show(self, image: Any) -> bool:
        import cv2

        from trt_afdet.errors import RunError

        try:
            cv2.imshow("trt-afdet", image)
            key = cv2.waitKey(1 if self.source.is_video else 0) & 0xFF
        except cv2.error as error:
            raise RunError(
                "no window can be shown", hint="is there a screen? use --out instead"
            ) from error
        return key not in (ord("q"), 27)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def json_line(frame: MediaFrame, found: Detections) -> dict[str, Any]:
    """What JSON lines say of one frame; boxes are x1 y1 x2 y2 in pixels of the frame."""
    height, width = frame.image.shape[:2]
    line: dict[str, Any] = {"source": str(frame.path), "frame": frame.index}
    if frame.timestamp_ms is not None:
        line["timestamp_ms"] = round(frame.timestamp_ms, 3)
    return {**line, "width": width, "height": height, "detections": found.to_dicts()}


def print_result(result: Result, detector: Detector) -> None:
    """The tables of a run: stages, frames, classes, files."""
    from trt_afdet.cli import ui

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


def report_failures(source: Source) -> int:
    """Names what could not be read; the exit status."""
    from trt_afdet.cli import ui

    for error in source.failed:
        ui.warn(str(error))
    return 1 if source.failed else 0
