"""The verification gate around a build: the converted model before it, the engine after it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trt_afdet.engine.builder import Built, Listener, write
from trt_afdet.engine.options import BuildOptions
from trt_afdet.errors import AfdetError, WriteError

if TYPE_CHECKING:
    from trt_afdet.engine.prepare import Converted
    from trt_afdet.engine.sample_pictures import Pictures
    from trt_afdet.engine.verify import Limits, VerifyResult
    from trt_afdet.runtime.backend import Backend
    from trt_afdet.runtime.runner import Runner


def open_verification(options: BuildOptions) -> Pictures | None:
    """The pictures to verify on; None if that is not asked for.

    Raises:
        AfdetError: If there are none.
    """
    from trt_afdet.engine.sample_pictures import open_pictures

    if options.verify is None:
        return None
    pictures = open_pictures(options.verify, split="val")
    return pictures if options.verify_images is None else pictures.spread(options.verify_images)


def verify_converted(
    options: BuildOptions, converted: Converted, pictures: Pictures, listener: Listener
) -> VerifyResult:
    """The converted model against the canonical one, both in ONNX Runtime.

    Raises:
        VerificationError: If it is beyond a limit.
        AfdetError: If model or pictures cannot be read.
    """
    from trt_afdet.engine.onnx.model_file import save_model
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    with tempfile.TemporaryDirectory(prefix="trt-afdet-") as folder:
        path = Path(folder) / "converted.onnx"
        save_model(converted.to_run(), path)
        with OnnxRuntimeBackend(path) as candidate:
            return _verify(options, "the converted model", candidate, pictures, listener)


def verify_engine(
    options: BuildOptions, built: Built, pictures: Pictures, listener: Listener
) -> VerifyResult:
    """The engine on this machine's GPU against the canonical model.

    Raises:
        VerificationError: If it is beyond a limit.
        AfdetError: If it cannot be run here.
    """
    with opened(built, options.output.parent) as runner:
        return _verify(options, "the engine", runner, pictures, listener)


def network_rate(options: BuildOptions, built: Built, seconds: float = 1.0) -> float:
    """Images a second of the engine alone, at its best batch."""
    with opened(built, options.output.parent) as runner:
        return runner.network_rate(options.batch[1], seconds)


@contextmanager
def opened(built: Built, beside: Path) -> Iterator[Runner]:
    """An engine that is not in its place yet, ready to run.

    Args:
        built: The engine.
        beside: Folder for temporary files, of a disk that has room for engines.
    """
    from trt_afdet.runtime.engine import open_engine

    try:
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".trt-afdet-", dir=beside) as folder:
            path = Path(folder) / "model.engine"
            write(built, path)
            with open_engine(path) as runner:
                yield runner
    except OSError as error:
        if isinstance(error, AfdetError):
            raise
        raise WriteError("cannot write", got=f"{beside}: {error.strerror or error}") from error


def merged(results: list[VerifyResult]) -> VerifyResult | None:
    """One result of several against the same reference."""
    if not results:
        return None
    candidates = tuple(candidate for result in results for candidate in result.candidates)
    return dataclasses.replace(results[0], candidates=candidates)


def rows(result: VerifyResult) -> list[list[str]]:
    """For people: candidate, worst output error, matched boxes, AP, AP lost."""
    table = []
    for candidate in result.candidates:
        worst = max((output.rms for output in candidate.outputs), default=None)
        table.append(
            [
                candidate.name,
                "-" if worst is None else f"{100 * worst:.2f} %",
                f"{100 * candidate.matched:.1f} %",
                "-" if candidate.ap is None else f"{candidate.ap:.2f}",
                "-" if candidate.ap_drop is None else f"{candidate.ap_drop:+.2f}",
            ]
        )
    return table


def _limits(options: BuildOptions) -> Limits:
    from trt_afdet.engine.verify import LIMITS

    limits = LIMITS[options.precision]
    if options.precision == "int8":
        limits = dataclasses.replace(limits, ap_drop=options.max_ap_drop)
    return dataclasses.replace(limits, **dict(options.verify_limits))


def _verify(
    options: BuildOptions, name: str, candidate: Backend, pictures: Pictures, listener: Listener
) -> VerifyResult:
    from trt_afdet.engine.verify import verify
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    with OnnxRuntimeBackend(options.onnx) as reference:
        truth = pictures.truth_for(reference.spec.class_names)
        if truth is not None and pictures.truth is not None:
            known = pictures.truth.report.lines()
            for line in truth.report.lines():
                if line not in known:
                    listener.warn(line)
        result = verify(
            reference, {name: candidate}, pictures, _limits(options), progress=listener.progress
        )
    columns = ("candidate", "worst output error", "boxes matched", "AP", "AP lost")
    listener.table(f"verified on {result.pictures} pictures", columns, rows(result))
    result.raise_if_failed()
    return result
