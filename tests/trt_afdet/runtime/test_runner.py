"""The runner: frame to detections on a device.

Every test runs the real kernels' source and a real network. On a GPU the same tests run there.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.skips import skip_test
from tests.trt_afdet.onnx_models import SPEC, build_model, save_model
from tests.trt_afdet.runtime.rigs import equal, near, scene, shipped
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.detections import Detections
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.native import NativeError
from trt_afdet.runtime.detector import Detector

HEIGHT, WIDTH = SPEC.height, SPEC.width


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The detector that everything must equal."""
    return Detector.load(save_model(tmp_path_factory.mktemp("model") / "model.onnx"))


def exact(seed: int) -> Any:
    """A frame of the network's size, which no letterbox changes."""
    return scene(seed, HEIGHT, WIDTH)


@pytest.mark.parametrize("kernels", [True, False])
def test_equals_the_detector_on_the_canonical_model(
    rig: Any, canonical: Detector, kernels: bool
) -> None:
    runner = rig.runner(kernels=kernels)
    frames = [exact(1), exact(2)]
    for got, want in zip(runner(frames), canonical(frames), strict=True):
        equal(got, want)


@pytest.mark.parametrize(
    ("dtype", "kernels"), [("float32", True), ("float16", True), ("float16", False)]
)
def test_the_shipped_detector_finds_the_same_objects(rig: Any, dtype: str, kernels: bool) -> None:
    """Frames that are resized: the kernel and OpenCV may differ by 1/255 a channel.

    Confident boxes (above 0.3) then differ by less than 0.02 in score and 0.1 in IoU.
    """
    model, spec, frames = shipped()
    large = [cv2.resize(frame, (1920, 1080)) for frame in frames]
    runner = rig.runner(model, spec, dtype=dtype, kernels=kernels)
    with Detector.load(SHIPPED_MODEL) as detector:
        for batch in (frames[:2], large[2:4]):
            for got, want in zip(runner(batch), detector(batch), strict=True):
                near(got, want)


def test_frames_of_any_sizes_share_a_batch(rig: Any) -> None:
    frames = [scene(1), scene(2, 120, 240), exact(3), scene(4, 600, 160)]
    runner = rig.runner()
    together = runner(frames)
    for found, frame in zip(together, frames, strict=True):
        equal(found, runner([frame])[0])


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_longer_lists_are_split(rig: Any, canonical: Detector, count: int) -> None:
    runner = rig.runner()
    frames = [exact(i) for i in range(count)]
    got = runner(frames)
    assert len(got) == count
    for found, want in zip(got, canonical(frames), strict=True):
        equal(found, want)


def test_a_fixed_batch_is_filled_up(rig: Any, canonical: Detector) -> None:
    runner = rig.runner(batches=(3, 3, 3))
    assert runner.batch_size == 3
    for kernels in (True, False):
        runner = rig.runner(batches=(3, 3, 3), kernels=kernels)
        frames = [exact(i) for i in range(4)]
        for found, want in zip(runner(frames), canonical(frames), strict=True):
            equal(found, want)


def test_frames_that_are_views_or_read_only(rig: Any, canonical: Detector) -> None:
    runner = rig.runner()
    wide = scene(5, HEIGHT, WIDTH * 2)
    view = wide[:, ::2]
    fixed = exact(6)
    fixed.flags.writeable = False
    for frame in (view, fixed, wide[::-1, :WIDTH]):
        equal(runner([frame])[0], canonical(np.ascontiguousarray(frame)))


@pytest.mark.parametrize("seed", range(12))
def test_overlapping_batches_do_not_mix(rig: Any, seed: int, canonical: Detector) -> None:
    """The dice lets streams run ahead of each other as far as events allow."""
    runner = rig.runner(seed=seed, kernels=seed % 3 != 0)
    dice = np.random.default_rng(seed)
    batches = [[exact(10 * i + j) for j in range(dice.integers(1, 5))] for i in range(5)]
    tickets = [runner.submit(batch) for batch in batches]
    order = dice.permutation(len(tickets))
    for index in order:
        for got, want in zip(tickets[index].detections(), canonical(batches[index]), strict=True):
            equal(got, want)


def test_submit_does_not_wait(rig: Any) -> None:
    runner = rig.runner()
    tickets = [runner.submit([exact(i)]) for i in range(2)]
    if not rig.gpu:  # The host device runs nothing before something waits for it.
        assert all(ticket._outcome is None for ticket in tickets)
    third = runner.submit([exact(2)])
    assert tickets[0]._outcome is not None
    assert [len(t.detections()) > 0 for t in (*tickets, third)] == [True] * 3
    assert set(third.seconds) == {"upload", "network", "download"}
    assert all(value >= 0 for value in third.seconds.values())


def test_the_caller_may_change_a_frame_at_once(rig: Any, canonical: Detector) -> None:
    runner = rig.runner()
    frame = exact(1)
    want = canonical(frame)
    ticket = runner.submit([frame])
    frame[:] = 0
    equal(ticket.detections()[0], want)


def test_a_frame_in_pinned_memory_is_not_copied_first(rig: Any, canonical: Detector) -> None:
    runner = rig.runner()
    buffer = runner.frame_buffer(HEIGHT, WIDTH)
    assert buffer.shape == (HEIGHT, WIDTH, 3)
    buffer[:] = exact(3)
    equal(runner([buffer])[0], canonical(exact(3)))
    # Nothing but the direct copy reads the buffer after submit.
    ticket = runner.submit([buffer])
    if not rig.gpu:
        buffer[:] = exact(4)
        equal(ticket.detections()[0], canonical(exact(4)))


def test_one_graph_per_slot_and_batch_size(rig: Any) -> None:
    runner = rig.runner()
    runner.warm_up(HEIGHT, WIDTH, [1, 4])
    assert sorted(runner._program._graphs) == [(0, 1), (0, 4), (1, 1), (1, 4)]
    prepared = list(runner.network.prepared) if not rig.gpu else []
    for count in (1, 4, 1, 1, 4):
        runner([exact(count)] * count)
    assert len(runner._program._graphs) == 4
    if not rig.gpu:
        assert runner.network.prepared == prepared == [4, 1]
        launches = runner.device.launches
        runner([exact(0)])
        assert runner.device.launches == launches + 1


def test_a_network_with_one_state_recaptures_when_the_batch_changes(
    rig: Any, canonical: Detector
) -> None:
    runner = rig.runner(keeps_batches=False)
    for count in (1, 1, 1, 1, 3, 3, 3, 3, 1, 2, 1, 1, 1):
        frames = [exact(i + count) for i in range(count)]
        for got, want in zip(runner(frames), canonical(frames), strict=True):
            equal(got, want)
    assert {batch for _, batch in runner._program._graphs} == {1}


def test_without_graphs(rig: Any, canonical: Detector) -> None:
    runner = rig.runner(graphs=False)
    for _ in range(4):
        equal(runner([exact(1)])[0], canonical(exact(1)))
    assert runner._program._graphs == {}


def test_what_cannot_be_captured_runs_without(
    rig: Any, canonical: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    if rig.gpu:
        skip_test("a real network whose capture fails", "the run without a GPU has this test")
    runner = rig.runner()
    runner.network.fails_in_capture = True
    for _ in range(6):
        equal(runner([exact(1)])[0], canonical(exact(1)))
    assert [r.message for r in caplog.records] == [
        "a layer cannot be captured; running without CUDA graphs, a little slower"
    ]


def test_nothing_is_allocated_after_warm_up(rig: Any) -> None:
    runner = rig.runner()
    runner.warm_up(600, 800, [1, 2, 4])
    before = runner.device.allocations
    assert before > 0
    for count in (1, 4, 2, 3, 4, 1):
        runner([scene(count, 600, 800 - count)] * count)
    assert runner.device.allocations == before
    runner([scene(1, 1200, 1600)] * 4)
    assert runner.device.allocations > before


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"score_threshold": 0.5}, None),
        ({"nms_iou": 0.05, "max_detections": 300}, None),
        ({"max_detections": 7}, [0, 2]),
        ({"candidates_per_level": 20}, [1]),
        ({"class_agnostic": True}, [0, 1]),
    ],
)
def test_thresholds_and_classes_are_the_decoders(
    rig: Any,
    canonical: Detector,
    changes: dict[str, Any],
    classes: list[int] | None,
    kernels: bool,
    tmp_path: Path,
) -> None:
    spec = SPEC.replace(**changes)
    path = save_model(tmp_path / "m.onnx", build_model(spec))
    want = Detector.load(path, classes=classes)
    runner = rig.runner(kernels=kernels)
    frames = [exact(i) for i in range(3)]
    runner(frames)
    runner.configure(spec, classes)
    for _ in range(3):
        for got, right in zip(runner(frames), want(frames), strict=True):
            equal(got, right)
    runner.configure(SPEC, None)
    for got, right in zip(runner(frames), canonical(frames), strict=True):
        equal(got, right)


@pytest.mark.parametrize("kernels", [True, False])
def test_what_is_under_way_keeps_its_thresholds(
    rig: Any, canonical: Detector, kernels: bool
) -> None:
    runner = rig.runner(kernels=kernels)
    tickets = [runner.submit([exact(i)]) for i in range(2)]
    runner.configure(SPEC.replace(max_detections=3), [1])
    for index, ticket in enumerate(tickets):
        equal(ticket.detections()[0], canonical(exact(index)))
    found = runner([exact(1)])[0]
    assert 0 < len(found) <= 3
    assert set(found.names) == {"zombie"}


def finished_model() -> bytes:
    return add_nms(build_model(), "onnx").SerializeToString()


@pytest.mark.parametrize("kernels", [True, False])
def test_a_network_that_ends_in_nms(rig: Any, canonical: Detector, kernels: bool) -> None:
    runner = rig.runner(finished_model(), kernels=kernels)
    assert runner.has_nms
    frames = [exact(i) for i in range(5)]
    for got, want in zip(runner(frames), canonical(frames), strict=True):
        equal(got, want)
    runner.configure(SPEC.replace(score_threshold=0.4, max_detections=6), [0, 2])
    for got, all_of in zip(runner(frames), canonical(frames), strict=True):
        wanted = np.isin(all_of.class_id, [0, 2]) & (all_of.confidence > 0.4)
        equal(got, all_of[wanted][:6])


def test_results_can_stay_on_the_device(rig: Any) -> None:
    runner = rig.runner()
    ticket = runner.submit([exact(1), exact(2)])
    on_device = ticket.on_device()
    assert [a.shape for a in on_device] == [(2, 1), (2, 100, 4), (2, 100), (2, 100)]
    assert [a.dtype.name for a in on_device] == ["int32", "float32", "float32", "int32"]
    if rig.gpu:
        number, boxes, scores, classes = (rig.to_numpy(a) for a in on_device)
    else:
        # Host memory: NumPy reads it through DLPack. Nothing else has waited for the device.
        number, boxes, scores, classes = (np.from_dlpack(a).copy() for a in on_device)
    found = ticket.detections()
    assert number[:, 0].tolist() == [len(f) for f in found]
    for image, want in enumerate(found):
        count = len(want)
        np.testing.assert_array_equal(scores[image, :count], want.confidence)
        np.testing.assert_array_equal(classes[image, :count], want.class_id)
        np.testing.assert_allclose(boxes[image, :count], want.xyxy, atol=1e-4)
    runner.submit([exact(3)])
    on_device.boxes.__dlpack_device__()
    runner.submit([exact(4)])
    with pytest.raises(RunError, match="overwritten"):
        on_device.boxes.__dlpack__()
    with pytest.raises(RunError, match="overwritten"):
        ticket.on_device()


def test_results_stay_off_the_device_where_they_never_were(rig: Any) -> None:
    with pytest.raises(RunError, match="found on the CPU"):
        rig.runner(kernels=False).submit([exact(1)]).on_device()
    runner = rig.runner()
    runner.configure(SPEC, [1])
    with pytest.raises(RunError, match="without classes"):
        runner.submit([exact(1)]).on_device()


def test_several_threads_share_one_runner(rig: Any, canonical: Detector) -> None:
    runner = rig.runner(seed=5)
    frames = [exact(i) for i in range(4)]
    want = canonical(frames)
    got: dict[int, list[Detections]] = {i: [] for i in range(4)}

    def work(index: int) -> None:
        for _ in range(4):
            got[index] += runner([frames[index]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(got[i]) for i in range(4)] == [4] * 4
    for index in range(4):
        for found in got[index]:
            equal(found, want[index])


def test_close_collects_what_is_under_way_and_frees_everything(rig: Any) -> None:
    runner = rig.runner()
    ticket = runner.submit([exact(1)])
    on_device = runner.submit([exact(2)]).on_device()
    runner.close()
    runner.close()
    assert len(ticket.detections()) == 1
    if not rig.gpu:
        assert runner.device.held() == []
        assert runner.network.closed
        assert runner.device.closed
    for refused in (
        lambda: runner.submit([exact(1)]),
        lambda: runner.warm_up(10, 10),
        lambda: runner.frame_buffer(10, 10),
        lambda: runner.network_rate(1, 0.01),
    ):
        with pytest.raises(RunError, match="closed"):
            refused()
    with pytest.raises(RunError, match="overwritten or freed"):
        on_device.scores.__dlpack__()
    equal(rig.runner()([exact(1)])[0], ticket.detections()[0])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.zeros((4, 4), np.uint8)], "BGR uint8"),
        ([np.zeros((0, 4, 3), np.uint8)], "BGR uint8"),
        (["picture.png"], "numpy array"),
        ([scene()] * 5, "1 to 4 frames"),
        ([], "1 to 4 frames"),
    ],
)
def test_bad_frames_are_refused_and_do_no_harm(
    rig: Any, canonical: Detector, frames: list[Any], message: str
) -> None:
    runner = rig.runner()
    ticket = runner.submit([exact(1)])
    with pytest.raises(InvalidValueError, match=message):
        runner.submit(frames)
    equal(ticket.detections()[0], canonical(exact(1)))
    equal(runner([exact(2)])[0], canonical(exact(2)))


def test_too_little_memory_leaves_nothing_behind(rig: Any, canonical: Detector) -> None:
    if rig.gpu:
        skip_test("this would have to fill the GPU", "the run without a GPU has this test")
    for limit in (1000, 1_500_000):
        device = rig.device(limit=limit)
        with pytest.raises(NativeError, match="out of device memory"):
            rig.runner(device=device)
        assert device.held() == []
    runner = rig.runner(device=rig.device(limit=12_000_000))
    with pytest.raises(NativeError, match="out of device memory"):
        runner.submit([scene(1, 2000, 3000)] * 4)
    equal(runner([exact(1)])[0], canonical(exact(1)))


def test_a_lost_device_fails_every_ticket_and_still_closes(rig: Any) -> None:
    if rig.gpu:
        skip_test("later tests would have no GPU", "the run without a GPU has this test")
    runner = rig.runner()
    first = runner.submit([exact(1)])
    runner.device.fail_with = 700
    for _ in range(2):
        with pytest.raises(NativeError, match="read or wrote where it must not"):
            first.detections()
    with pytest.raises(NativeError, match="CUDA error 700"):
        runner.submit([exact(2)])
    runner.close()
    assert runner.device.closed
    assert runner.network.closed
    rig.lost.append(runner.device)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: build_model(classes=2), "does not fit"),
        (lambda: build_model(drop="reg_p4"), "reg_p4.* is missing"),
        (lambda: build_model(input_name="x"), "input must be 'images'"),
        (lambda: add_nms(build_model(SPEC.replace(max_detections=9)), "onnx"), "does not fit"),
    ],
)
def test_tensors_that_are_not_the_specs(rig: Any, model: Any, message: str) -> None:
    if rig.gpu:
        skip_test("this check uses no device", "the run without a GPU has this test")
    device = rig.device()
    with pytest.raises(InvalidValueError, match=message):
        rig.runner(model().SerializeToString(), device=device)
    assert device.held() == []


def test_stage_seconds_and_the_bare_networks_rate(rig: Any, canonical: Detector) -> None:
    runner = rig.runner()
    seconds = runner.stage_seconds([exact(1), exact(2)])
    assert list(seconds) == ["upload", "preprocess", "network", "postprocess", "download"]
    assert all(value > 0 for value in seconds.values())
    assert runner.network_rate(2, 0.01) > 0
    equal(runner([exact(3)])[0], canonical(exact(3)))


def test_the_network_alone(rig: Any, canonical: Detector) -> None:
    images = np.random.default_rng(0).normal(size=(5, 3, HEIGHT, WIDTH)).astype(np.float32)
    want = canonical.backend.infer(images)
    for batches in ((1, 2, 4), (2, 2, 2)):
        runner = rig.runner(batches=batches)
        for _ in range(2):
            for got, right in zip(runner.infer(images), want, strict=True):
                np.testing.assert_allclose(got, right, atol=1e-5)
        equal(runner([exact(1)])[0], canonical(exact(1)))
    with pytest.raises(InvalidValueError, match=r"images must be float32 \[N, 3, 256, 384\]"):
        runner.infer(images[:, :, :10])
    finished = rig.runner(finished_model()).infer(images)
    assert [a.shape for a in finished] == [(5, 1), (5, 100, 4), (5, 100), (5, 100)]


def test_behind_a_detector(rig: Any, canonical: Detector) -> None:
    frames = [exact(i) for i in range(6)]
    detector = Detector(rig.runner(), conf=0.4, classes=["imp"])
    want = Detector(canonical.backend, conf=0.4, classes=["imp"])
    for got, right in zip(detector(frames), want(frames), strict=True):
        equal(got, right)
    equal(detector(frames[0]), want(frames[0]))
    tickets = [detector.submit(frames[i : i + 2]) for i in range(0, 6, 2)]
    collected = [found for ticket in tickets for found in detector.collect(ticket)]
    for got, right in zip(collected, want.collect(want.submit(frames)), strict=True):
        equal(got, right)
    assert [row[0] for row in detector.times.rows()] == ["upload", "network", "download"]
    assert len(detector.times.seconds["network"]) == 13
    with pytest.raises(InvalidValueError, match="1 to 4 frames"):
        detector.submit(frames)
    with pytest.raises(InvalidValueError, match="cannot be changed"):
        Detector(rig.runner(finished_model()), iou=0.3)
    detector.close()
    with pytest.raises(RunError, match="closed"):
        detector(frames[0])
