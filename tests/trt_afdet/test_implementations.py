"""One suite for all implementations of decode + NMS: the same cases, the same answers.

NumPy is compared with a plain reference and with torchvision; the others with NumPy.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tests.paths import ROOT
from tests.skips import skip_test
from tests.trt_afdet.heads import (
    Problem,
    case_matrix,
    large_cases,
    make_spec,
    problems,
    random_heads,
    tie_free_heads,
)
from tests.trt_afdet.implementations import Heads, Implementation, get, parameters, run_numpy
from tests.trt_afdet.postprocess_reference import detect as plain_detect
from trt_afdet import native
from trt_afdet.native import Outputs
from trt_afdet.spec import ModelSpec

CASES = case_matrix()
LARGE_CASES = large_cases()

WITHOUT_NUMPY = [p for p in parameters() if p.values[0] != "numpy"]


@cache
def expected(case: str) -> tuple[ModelSpec, Heads, Outputs]:
    spec, heads = (CASES.get(case) or LARGE_CASES[case])()
    return spec, heads, run_numpy(heads, spec)


def assert_same(found: Outputs, want: Outputs) -> None:
    """Equal in count, order and classes, boxes and scores to 1e-5, unused rows zero."""
    assert found.num_detections.dtype == found.classes.dtype == np.int32
    assert found.boxes.dtype == found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.num_detections, want.num_detections)
    np.testing.assert_array_equal(found.classes, want.classes)
    np.testing.assert_allclose(found.boxes, want.boxes, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5, atol=1e-30)
    for image, count in enumerate(found.num_detections[:, 0]):
        assert (found.classes[image, count:] == -1).all()
        assert not found.boxes[image, count:].any()
        assert not found.scores[image, count:].any()


def plain_outputs(heads: Heads, spec: ModelSpec) -> Outputs:
    """The plain reference's detections."""
    outputs = Outputs.empty(len(heads[0]), spec)
    for array, value in zip(outputs, (0, 0, 0, -1), strict=True):
        array[:] = value
    for image in range(len(heads[0])):
        found = plain_detect([head[image] for head in heads], spec)
        outputs.num_detections[image] = len(found)
        for row, (logit, _, _, class_id, box) in enumerate(found):
            outputs.boxes[image, row] = box
            outputs.classes[image, row] = class_id
            with np.errstate(over="ignore"):
                outputs.scores[image, row] = 1 / (1 + np.exp(-np.float64(logit)))
    return outputs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_every_implementation_equals_the_reference(name: str, case: str) -> None:
    run = get(name)
    spec, heads, want = expected(case)
    assert_same(run(heads, spec), want)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE_CASES)
@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_large_heads(name: str, case: str) -> None:
    run = get(name)
    spec, heads, want = expected(case)
    assert want.num_detections.max() == spec.max_detections
    assert_same(run(heads, spec), want)


def check_any(run: Implementation, want: Implementation, examples: int, **limits: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems(**limits))
    def check(problem: Problem) -> None:
        spec, heads = problem
        assert_same(run(heads, spec), want(heads, spec))

    check()


@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_any_heads(name: str) -> None:
    # Sessions and shuffled threads are slow to make.
    examples = {"host": 150, "host-threads": 50, "cuda": 150, "emulated": 60}.get(name, 20)
    check_any(get(name), run_numpy, examples)


def test_any_small_heads_equal_the_plain_reference() -> None:
    """NumPy, on which all others lean."""
    check_any(run_numpy, plain_outputs, 60, most_points=120, most_values=360)


@pytest.mark.parametrize("name", parameters())
@pytest.mark.parametrize("agnostic", [False, True])
def test_small_heads_equal_the_plain_reference(name: str, agnostic: bool) -> None:
    spec = make_spec(2, 128, 128, class_agnostic=agnostic, candidates_per_level=40)
    heads = random_heads(spec, mean=-1, batch=2, seed=5)
    want = plain_outputs(heads, spec)
    assert want.num_detections.min() > 10
    assert_same(get(name)(heads, spec), want)


def torchvision_detect(heads: Heads, spec: ModelSpec) -> list[tuple[Any, Any, Any]]:
    """The same by torchvision's FCOS post-processing operators, written from its documentation."""
    import torch
    from torchvision.ops import batched_nms, clip_boxes_to_image

    results = []
    levels = len(spec.strides)
    for image in range(len(heads[0])):
        boxes, scores, classes = [], [], []
        for level, stride in enumerate(spec.strides):
            logits = torch.from_numpy(heads[level][image]).permute(1, 2, 0).reshape(-1)
            distances = (
                torch.from_numpy(heads[levels + level][image]).permute(1, 2, 0).reshape(-1, 4)
            )
            probability = torch.sigmoid(logits)
            passing = torch.where(probability > spec.score_threshold)[0]
            count = min(spec.candidates_per_level, len(passing))
            best = passing[torch.topk(probability[passing], count)[1]]
            points, class_id = best // spec.num_classes, best % spec.num_classes
            columns = spec.grid_sizes[level][1]
            x = (points % columns + 0.5) * stride
            y = (points // columns + 0.5) * stride
            d = distances[points] * (spec.regression_scale * stride)
            boxes.append(torch.stack([x - d[:, 0], y - d[:, 1], x + d[:, 2], y + d[:, 3]], 1))
            scores.append(probability[best])
            classes.append(class_id)
        all_boxes = clip_boxes_to_image(torch.cat(boxes), (spec.height, spec.width))
        all_scores, all_classes = torch.cat(scores), torch.cat(classes)
        groups = torch.zeros_like(all_classes) if spec.class_agnostic else all_classes
        keep = batched_nms(all_boxes, all_scores, groups, spec.nms_iou)[: spec.max_detections]
        results.append(
            (all_boxes[keep].numpy(), all_scores[keep].numpy(), all_classes[keep].numpy())
        )
    return results


@pytest.mark.parametrize("name", parameters())
@pytest.mark.parametrize(
    ("classes", "mean", "agnostic"),
    [(1, -3.0, False), (20, -5.0, False), (20, -5.0, True), (80, -4.0, False)],
)
def test_torchvision_is_an_independent_oracle(
    name: str, classes: int, mean: float, agnostic: bool
) -> None:
    run = get(name)
    spec = make_spec(classes, 256, 256, class_agnostic=agnostic)
    heads = tie_free_heads(spec, mean, seed=classes, batch=2)
    found = run(heads, spec)
    for image, (boxes, scores, class_id) in enumerate(torchvision_detect(heads, spec)):
        count = found.num_detections[image, 0]
        assert count == len(boxes) > 0
        np.testing.assert_array_equal(found.classes[image, :count], class_id)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(found.scores[image, :count], scores, rtol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_two_runs_are_equal_to_the_bit(name: str) -> None:
    run = get(name)
    spec, heads, _ = expected("absurd")
    for first, second in zip(run(heads, spec), run(heads, spec), strict=True):
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", parameters("emulated", "emulated-shuffled", "cuda"))
@pytest.mark.parametrize("case", ["batch of 32", "absurd half", "1000 detections"])
def test_kernels_equal_the_host_to_the_bit(name: str, case: str) -> None:
    run, host = get(name), get("host")
    spec, heads, _ = expected(case)
    found, want = run(heads, spec), host(heads, spec)
    np.testing.assert_array_equal(found.boxes, want.boxes)
    # The GPU's exponential may differ in the last bit of a double.
    np.testing.assert_allclose(found.scores, want.scores, rtol=2e-7 if name == "cuda" else 0)


@pytest.mark.parametrize("classes", [1, 20, 80])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_workspace_of_an_image(classes: int, dtype: str) -> None:
    try:
        library = native.emulated()
    except native.NativeMissingError as error:
        skip_test(error, "make native-host")
    spec = make_spec(classes, 512, 512)
    one = library.detect_workspace(spec, dtype, 1)
    assert one <= 1_000_000
    assert library.detect_workspace(spec, dtype, 16) <= 16 * one


def sanitized_build() -> tuple[Path, dict[str, str]]:
    """A build under sanitizers, AddressSanitizer if there is one, and what Python needs for it."""
    others = []
    for build in sorted((ROOT / "build").glob("cxx-*-sanitized")):
        if not (build / "lib" / native.file_name("afdet_emulated")).exists():
            continue
        lines = (build / "CMakeCache.txt").read_text().splitlines()
        cache = {line.partition(":")[0]: line.partition("=")[2] for line in lines}
        if "address" not in cache["AFDET_SANITIZE"]:
            others.append(build)
        elif runtime := sanitizer_runtime(cache["CMAKE_CXX_COMPILER"]):
            # Python itself leaks.
            return build, {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    if not others:
        skip_test("no build under sanitizers", "make test-native")
    return others[0], {}


def sanitizer_runtime(compiler: str) -> str | None:
    """The AddressSanitizer library of a compiler, which Python must load first."""
    for name in (f"libclang_rt.asan-{platform.machine()}.so", "libasan.so"):
        command = [compiler, f"-print-file-name={name}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if Path(found).is_file():  # A compiler that has none prints the bare name.
            return found
    return None


@pytest.mark.slow
def test_native_code_under_sanitizers() -> None:
    """This suite and the letterbox's once more, over libraries that see every read and write."""
    build, environment = sanitized_build()
    tests = "(host or emulated) and (equals_the_reference or any_heads or to_the_bit)"
    letterbox = Path(__file__).with_name("test_letterbox_native.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, __file__, letterbox, "-k", f"{tests} or letterbox"],
        env=os.environ | environment | {native.LIBRARY_PATH_VARIABLE: str(build / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert " passed" in result.stdout
