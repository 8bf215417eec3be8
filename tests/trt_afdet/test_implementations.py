"""One suite for all implementations of decode + NMS: the same cases, the same answers.

NumPy is compared with a plain reference and with torchvision; the others with NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from heads import Heads, case_matrix, make_spec, problems, random_heads, tie_free_heads
from hypothesis import HealthCheck, given, settings
from implementations import IMPLEMENTATIONS, get, parameters, run_numpy
from postprocess_reference import detect as plain_detect

from trt_afdet import native
from trt_afdet.native import Outputs
from trt_afdet.spec import ModelSpec

CASES = case_matrix()

WITHOUT_NUMPY = [p for p in parameters() if p.values[0] != "numpy"]


def assert_same(found: Outputs, want: Outputs) -> None:
    """Equal in count, order and classes, boxes and scores to 1e-5, unused rows zero."""
    assert found.num_detections.dtype == np.int32
    assert found.classes.dtype == np.int32
    np.testing.assert_array_equal(found.num_detections, want.num_detections)
    np.testing.assert_array_equal(found.classes, want.classes)
    np.testing.assert_allclose(found.boxes, want.boxes, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5, atol=1e-30)
    for image, count in enumerate(found.num_detections[:, 0]):
        assert (found.classes[image, count:] == -1).all()
        assert not found.boxes[image, count:].any()
        assert not found.scores[image, count:].any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_every_implementation_equals_the_reference(name: str, case: str) -> None:
    spec, heads = CASES[case]
    assert_same(get(name)(heads, spec), run_numpy(heads, spec))


@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_any_heads(name: str) -> None:
    run = get(name)
    # Sessions and shuffled threads are slow to make.
    examples = {"host": 150, "cuda": 150, "emulated": 40}.get(name, 15)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems())
    def check(problem: tuple[ModelSpec, Heads]) -> None:
        spec, heads = problem
        with np.errstate(all="ignore"):
            assert_same(run(heads, spec), run_numpy(heads, spec))

    check()


@pytest.mark.parametrize("name", parameters())
@pytest.mark.parametrize("agnostic", [False, True])
def test_small_heads_equal_the_plain_reference(name: str, agnostic: bool) -> None:
    spec = make_spec(2, 128, 128, class_agnostic=agnostic, candidates_per_level=40)
    heads = random_heads(spec, mean=-1, batch=2, seed=5)
    found = get(name)(heads, spec)
    for image in range(2):
        want = plain_detect([head[image] for head in heads], spec)
        assert found.num_detections[image, 0] == len(want)
        assert found.classes[image, : len(want)].tolist() == [c[3] for c in want]
        np.testing.assert_allclose(found.boxes[image, : len(want)], [c[4] for c in want], rtol=1e-5)


def torchvision_detect(heads: Heads, spec: ModelSpec) -> list[tuple[Any, Any, Any]]:
    """The same by torchvision's FCOS post-processing operators, written from its documentation."""
    torch = pytest.importorskip("torch")
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
        keep = batched_nms(all_boxes, all_scores, all_classes, spec.nms_iou)[: spec.max_detections]
        results.append(
            (all_boxes[keep].numpy(), all_scores[keep].numpy(), all_classes[keep].numpy())
        )
    return results


@pytest.mark.parametrize("name", parameters())
@pytest.mark.parametrize(("classes", "mean"), [(1, -3.0), (20, -5.0), (80, -4.0)])
def test_torchvision_is_an_independent_oracle(name: str, classes: int, mean: float) -> None:
    spec = make_spec(classes, 256, 256)
    heads = tie_free_heads(spec, mean, seed=classes)
    found = get(name)(heads, spec)
    for image, (boxes, scores, class_id) in enumerate(torchvision_detect(heads, spec)):
        count = found.num_detections[image, 0]
        assert count == len(boxes) > 0
        np.testing.assert_array_equal(found.classes[image, :count], class_id)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(found.scores[image, :count], scores, rtol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_NUMPY)
def test_two_runs_are_equal_to_the_bit(name: str) -> None:
    spec, heads = CASES["absurd"]
    run = get(name)
    for first, second in zip(run(heads, spec), run(heads, spec), strict=True):
        assert first.tobytes() == second.tobytes()


def test_real_sized_dense_heads() -> None:
    spec = make_spec(80, 512, 512)
    heads = random_heads(spec, mean=-1, seed=9)
    want = run_numpy(heads, spec)
    for name in ("host", "host-threads", "emulated", "emulated-shuffled", "onnx", "onnx-loop"):
        assert_same(get(name)(heads, spec), want)


@pytest.mark.parametrize(("classes", "most"), [(20, 2**20), (80, 2**20)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_workspace_of_an_image(classes: int, most: int, dtype: str) -> None:
    try:
        library = native.emulated()
    except native.NativeMissingError as error:
        pytest.skip(f"missing: {error}")
    spec = make_spec(classes, 512, 512)
    one = library.detect_workspace(spec, dtype, 1)
    assert one <= most
    assert library.detect_workspace(spec, dtype, 16) <= 16 * one


def test_the_matrix_names_every_implementation() -> None:
    names: list[npt.NDArray[Any] | str] = [p.values[0] for p in parameters()]
    assert names == list(IMPLEMENTATIONS)
