"""Verification: a converted network or an engine against the canonical one, on pictures."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.datasets.index import ProgressLike
from trt_afdet.detections import Detections
from trt_afdet.engine.builder import Built, Listener, write
from trt_afdet.engine.compare import (
    AP_CONFIDENCE,
    ErrorSum,
    OutputError,
    average_precision,
    batches,
    detect,
    infer,
    matched_share,
)
from trt_afdet.engine.options import MAX_AP_DROP, BuildOptions
from trt_afdet.engine.sample_pictures import Pictures
from trt_afdet.errors import AfdetError, InvalidValueError, RunError, WriteError
from trt_afdet.runtime.backend import Backend
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

if TYPE_CHECKING:
    from trt_afdet.runtime.runner import Runner


class VerificationError(RunError):
    """A converted network is further from the canonical one than the limits allow."""


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        output_error: Largest error of an output: root mean square, over the reference's.
        matched: Least share of boxes that have a partner, 0..1.
        ap_drop: Largest loss of AP, in points of 100; counts where boxes are known.
    """

    output_error: float
    matched: float
    ap_drop: float


#: By precision. FP16 and INT8 allow two to three times what the shipped model needs.
LIMITS = {
    "fp32": Limits(output_error=1e-3, matched=0.999, ap_drop=0.05),
    "fp16": Limits(output_error=0.01, matched=0.99, ap_drop=0.1),
    "int8": Limits(output_error=0.3, matched=0.9, ap_drop=MAX_AP_DROP),
}


@dataclass(frozen=True)
class CandidateResult:
    """One candidate; ``failures`` are values beyond a limit, one line each.

    ``outputs`` is empty for a network that ends in NMS. ``matched`` is the share of boxes with a
    partner of the same class and an IoU of 0.9: of the reference's boxes among the candidate's and
    the other way round, the mean. AP is in points of 100, None where boxes are not known.
    """

    name: str
    outputs: tuple[OutputError, ...]
    matched: float
    ap: float | None
    ap_drop: float | None
    failures: tuple[str, ...]


@dataclass(frozen=True)
class VerifyResult:
    """All candidates against one reference, whose AP is None where boxes are not known."""

    pictures: int
    reference_ap: float | None
    limits: Limits
    candidates: tuple[CandidateResult, ...]

    @property
    def passed(self) -> bool:
        return not any(c.failures for c in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """For the engine's sidecar: JSON types, null in place of infinity."""
        return dict(_finite({"passed": self.passed, **dataclasses.asdict(self)}))

    def raise_if_failed(self) -> None:
        """Raises a VerificationError that names the first candidate beyond a limit."""
        if failed := next((one for one in self.candidates if one.failures), None):
            raise VerificationError(
                f"{failed.name} is too far from the canonical model",
                got="; ".join(failed.failures),
                hint="keep more in higher precision (--keep), or raise it (--verify-limits)",
            )


def verify(
    reference: Backend,
    candidates: Mapping[str, Backend],
    pictures: Pictures,
    limits: Limits,
    *,
    progress: ProgressLike | None = None,
) -> VerifyResult:
    """Runs a reference and the candidates, by name, on the same pictures and compares.

    Raises:
        InvalidValueError: If no picture can be read, or a candidate's spec is another model's.
    """
    for name, candidate in candidates.items():
        if candidate.spec != reference.spec:
            raise InvalidValueError(f"{name} was not made from this model: its spec differs")
    has_nms = reference.has_nms or any(c.has_nms for c in candidates.values())
    confidence = reference.spec.score_threshold if has_nms else AP_CONFIDENCE
    names = [] if reference.has_nms else reference.spec.output_names
    errors = {n: ErrorSum(names) for n, c in candidates.items() if not c.has_nms and names}
    found: dict[str, list[Detections]] = {name: [] for name in candidates}
    expected: list[Detections] = []
    used: list[int] = []
    for indices, images, letterboxes in batches(pictures, reference.spec, progress, "verifying"):
        outputs = infer(reference, images)
        expected += detect(reference, outputs, letterboxes, confidence)
        for name, candidate in candidates.items():
            heads = infer(candidate, images)
            found[name] += detect(candidate, heads, letterboxes, confidence)
            if name in errors:
                errors[name].add(outputs, heads)
        used += indices
    if not used:
        raise InvalidValueError("no picture can be read", got=pictures.source)
    truth = pictures.choose(used).truth_for(reference.spec.class_names)

    def ap_of(detections: list[Detections]) -> float | None:
        return None if truth is None else average_precision(truth, detections)

    best = ap_of(expected)
    results = []
    for name in candidates:
        measured = errors[name].result() if name in errors else ()
        ap = ap_of(found[name])
        drop = None if ap is None or best is None else best - ap
        matched = matched_share(expected, found[name])
        failures = _failures(measured, matched, drop, limits)
        results.append(CandidateResult(name, measured, matched, ap, drop, failures))
    return VerifyResult(len(used), best, limits, tuple(results))


def _failures(
    outputs: Iterable[OutputError], matched: float, drop: float | None, limits: Limits
) -> tuple[str, ...]:
    lines = []
    worst = max(outputs, key=lambda o: o.rms, default=None)
    # Written so that NaN fails.
    if worst is not None and not worst.rms <= limits.output_error:
        lines.append(f"output_error: {worst.name} {worst.rms:.3g} > {limits.output_error:g}")
    if not matched >= limits.matched:
        lines.append(f"matched: {matched:.3f} < {limits.matched:g}")
    if drop is not None and not drop <= limits.ap_drop:
        lines.append(f"ap_drop: {drop:.2f} > {limits.ap_drop:g}")
    return tuple(lines)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@contextmanager
def opened(built: Built, beside: Path) -> Iterator[Runner]:
    """An engine that is not in its place yet, ready to run.

    It lies in a temporary folder in ``beside`` meanwhile, on a disk that has room for engines.
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


def _rows(result: VerifyResult) -> Iterator[list[str]]:
    """Candidate, worst output error, matched boxes, AP, AP lost."""
    for one in result.candidates:
        worst = max((output.rms for output in one.outputs), default=None)
        yield [
            one.name,
            "-" if worst is None else f"{100 * worst:.2f} %",
            f"{100 * one.matched:.1f} %",
            "-" if one.ap is None else f"{one.ap:.2f}",
            "-" if one.ap_drop is None else f"{one.ap_drop:+.2f}",
        ]


def check(
    options: BuildOptions, name: str, candidate: Backend, pictures: Pictures, listener: Listener
) -> VerifyResult:
    """Compares with the canonical model in ONNX Runtime; a VerificationError beyond a limit."""
    limits = LIMITS[options.precision]
    if options.precision == "int8":
        limits = dataclasses.replace(limits, ap_drop=options.max_ap_drop)
    limits = dataclasses.replace(limits, **dict(options.verify_limits))
    with OnnxRuntimeBackend(options.onnx) as reference:
        if pictures.truth is not None:
            known = pictures.truth.report.lines()
            for line in pictures.truth.for_model(reference.spec.class_names).report.lines():
                if line not in known:
                    listener.warn(line)
        candidates = {name: candidate}
        result = verify(reference, candidates, pictures, limits, progress=listener.progress)
    columns = ("candidate", "worst output error", "boxes matched", "AP", "AP lost")
    listener.table(f"verified on {result.pictures} pictures", columns, list(_rows(result)))
    result.raise_if_failed()
    return result
