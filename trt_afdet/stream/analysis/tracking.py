"""Objects keep a number from frame to frame: ByteTrack of the ``trackers`` package.

Time comes from the frames, not from their count, so dropped frames and cameras that change their
rate do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import time as now

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.support.fields import Count, Positive, Share, check_fields
from trt_afdet.support.packages import missing

#: Frames per second that ByteTrack's noise figures are meant for; real gaps are scaled to it.
_RATE = 30.0

BACK = 0.5  # Seconds that the frames of a file may be out of order; more is a jump back.


@dataclass(frozen=True)
class TrackOptions:
    """How objects are followed.

    Attributes:
        low: Boxes with a confidence from here up to the source's own limit start no track, but
            carry on one that exists.
        confirm: Detections in a row that make a track and give it a number.
        lost: Seconds that a track lives on without being seen.
        overlap: Least IoU of a track's predicted box and a detection.
        reset_after: A gap of more seconds between two frames ends all tracks.
    """

    low: Share = 0.1
    confirm: Count = 2
    lost: Positive = 1.0
    overlap: Share = 0.1
    reset_after: Positive = 5.0

    def __post_init__(self) -> None:
        check_fields(self)


class Tracker:
    """Follows the objects of one source. Numbers grow and are never used twice.

    ::

        tracker = Tracker()
        for frame, found in detector.stream("clip.mp4"):
            tracked = tracker.update(found)

    Args:
        options: How.
        conf: Less confident objects start no track, but carry on one that exists, 0..1.
        first_id: Number of the first track.

    Raises:
        MissingDependencyError: If ``trackers`` is not installed.
    """

    def __init__(
        self, options: TrackOptions | None = None, *, conf: float = 0.3, first_id: int = 1
    ) -> None:
        self.options = options or TrackOptions()
        self.conf = conf
        self.next_id = first_id  # The number that the next track gets.
        self.resets = 0  # Times that all tracks were ended by a gap.
        self._start()

    def _start(self) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise missing(error) from error
        self._tracker = ByteTrackTracker(
            lost_track_buffer=max(1, round(self.options.lost * 30)),
            frame_rate=_RATE,
            track_activation_threshold=0.5,
            minimum_consecutive_frames=self.options.confirm,
            minimum_iou_threshold=self.options.overlap,
            high_conf_det_threshold=0.5,
        )
        self._offset = self.next_id
        self._moment: float | None = None
        # Of the tracks seen in the last frame with detections: confidence and class.
        self._seen: dict[int, tuple[float, int]] = {}

    def update(
        self,
        found: Detections,
        time: float | None = None,
        *,
        strong: npt.NDArray[np.bool_] | None = None,
    ) -> Detections:
        """Takes the detections of a frame.

        Args:
            found: All of them, weak ones included.
            time: Seconds, on one time base for all frames; by default the clock's.
            strong: bool [N], which ones may start a track; by default those above ``conf``.

        Returns:
            The same detections in the same order with ``tracker_id``; -1 for those not tracked.
        """
        import supervision

        moment = now() if time is None else time
        strong = found.confidence >= self.conf if strong is None else strong
        # Too much time has passed, or a file has jumped back: all tracks end.
        most = self.options.reset_after
        if self._moment is not None and not -BACK <= moment - self._moment <= most:
            self._start()
            self.resets += 1
        if self._moment is not None and moment <= self._moment:
            moment = self._moment + 1e-6  # Two frames of one time: it must go on.
        self._moment = moment
        ids = np.full(len(found), -1, np.int64)
        boxes = supervision.Detections(
            xyxy=found.xyxy.astype(np.float64),
            # Thresholds differ by class: what counts is the side of it that a detection is on.
            confidence=strong.astype(np.float64),
            data={"index": np.arange(len(found))},
        )
        tracked = self._tracker.update(boxes, timestamp=moment)
        if len(tracked):
            numbers = np.asarray(tracked.tracker_id, np.int64)
            numbers = np.where(numbers < 0, -1, numbers + self._offset)
            ids[np.asarray(tracked.data["index"])] = numbers
        self.next_id = max(self.next_id, int(ids.max(initial=-1)) + 1)
        known = zip(found.confidence.tolist(), found.class_id.tolist(), strict=True)
        self._seen = dict(zip(ids.tolist(), known, strict=True))
        return replace(found, tracker_id=ids)

    def carry(
        self, time: float, class_names: tuple[str, ...], width: int, height: int
    ) -> Detections:
        """Where the objects seen last should be by now, without a look at the picture.

        ``time`` is as for :meth:`update`; boxes are cut at the sides of a frame of this size.
        """
        ahead = 0.0 if self._moment is None else (time - self._moment) * _RATE
        boxes, ids = [], []
        if -BACK * _RATE <= ahead <= self.options.lost * _RATE:
            ahead = max(0.0, ahead)
            for track in self._tracker.tracks:
                number = track.tracker_id + self._offset
                if track.tracker_id >= 0 and number in self._seen:
                    # x1 y1 x2 y2 and their speeds per frame, as the Kalman filter has them.
                    state = track.state_estimator.get_state()["state"].ravel()
                    boxes.append(state[:4] + ahead * state[4:])
                    ids.append(number)
        place = np.array(boxes, np.float32).reshape(-1, 4)
        place[:, 0::2] = place[:, 0::2].clip(0, width)
        place[:, 1::2] = place[:, 1::2].clip(0, height)
        inside = np.flatnonzero((place[:, 2:] > place[:, :2]).all(axis=1))
        confidence = np.array([self._seen[number][0] for number in ids], np.float32)
        class_id = np.array([self._seen[number][1] for number in ids], np.int32)
        numbers = np.array(ids, np.int64)
        carried = Detections(place, confidence, class_id, class_names, numbers)[inside]
        return carried[np.argsort(-carried.confidence, kind="stable")]
