"""A network file's interface: input, outputs, metadata.

The builder writes it, every runtime checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.spec import METADATA_KEY, ModelSpec

#: Name of the network's only input.
INPUT_NAME = "images"

#: Types that input and heads may have.
FLOATS = ("float32", "float16")

#: Outputs of a network with NMS, of either form: int32 [N, 1], float32 [N, M, 4] x1 y1 x2 y2 in
#: network-input pixels, float32 [N, M] and int32 [N, M]; unused rows are zero, their class is -1.
DETECTION_NAMES = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")

#: Key in the ONNX metadata of the form of NMS that a network ends in; "none" where it is absent.
NMS_KEY = "trt_afdet.nms"

#: A TensorRT plugin, standard ONNX operators, or the ten heads as they are.
NMS_FORMS = ("plugin", "onnx", "none")

#: The TensorRT plugin's op, in the ONNX domain "trt_afdet".
PLUGIN_OP = "AfdetDecodeNMS"
PLUGIN_DOMAIN = "trt_afdet"
PLUGIN_VERSION = "1"

#: How many boxes a YOLO network gives, and detectors of others, by the names of their outputs.
_YOLO_SIZES = frozenset((8400, 25200, 6300, 10647, 18900))
_FOREIGN = {
    ("pred_logits", "pred_boxes"): "a DETR model",
    ("boxes", "scores", "labels"): "a torchvision model",
    ("detection_boxes:0",): "a TensorFlow model",
}


def read_spec(text: str | None, file: object) -> ModelSpec:
    """The spec stored with a network."""
    if not text:
        what = f"{file} is not a trt-afdet model: it lacks the metadata {METADATA_KEY!r}"
        raise InvalidValueError(what, hint="export one with `trt-afdet export`")
    try:
        return ModelSpec.from_json(text)
    except InvalidValueError as error:
        raise InvalidValueError(f"{file}: {error.what}", got=error.got, hint=error.hint) from error


def foreign_network(
    file: object,
    inputs: Sequence[tuple[str, Sequence[Any]]],
    outputs: Sequence[tuple[str, Sequence[Any]]],
) -> InvalidValueError:
    """The error for a network without our metadata: its interface, and the expected one."""

    def listed(tensors: Sequence[tuple[str, Sequence[Any]]]) -> str:
        shown = [f"{name} [{', '.join(map(str, shape))}]" for name, shape in tensors[:4]]
        more = f" and {len(tensors) - 4} more" if len(tensors) > 4 else ""
        return ", ".join(shown) + more

    names = {name for name, _ in outputs}
    yolo = {"output0", "output1"} & names or any(
        len(shape) == 3 and not _YOLO_SIZES.isdisjoint(shape[1:]) for _, shape in outputs
    )
    others = (kind for marks, kind in _FOREIGN.items() if names.issuperset(marks))
    like = "a YOLO model" if yolo else next(others, None)
    return InvalidValueError(
        f"{file} is not a trt-afdet model: it lacks the metadata {METADATA_KEY!r}",
        got=f"input {listed(inputs)}; output {listed(outputs)}"
        + (f", as {like} has" if like else ""),
        hint=f"expected are input {INPUT_NAME} and outputs cls_p3 ... reg_p7; such a file comes "
        "from `trt-afdet export`",
    )


def read_nms(text: str | None, file: object) -> str:
    """The form of NMS that a network's metadata tells: one of :data:`NMS_FORMS`."""
    form = text or "none"
    if form not in NMS_FORMS:
        what = f"{file}: {NMS_KEY} must be one of {', '.join(NMS_FORMS)}"
        raise InvalidValueError(what, got=form, hint="upgrade trt-afdet")
    return form


def check_network(
    spec: ModelSpec,
    file: object,
    inputs: Sequence[tuple[str, Sequence[Any], str]],
    outputs: Sequence[tuple[str, Sequence[Any]]],
    *,
    has_nms: bool = False,
) -> int | None:
    """Checks that a network's interface is the one its spec describes.

    Args:
        spec: The network's spec.
        file: For the message.
        inputs: Name, shape and element type of each input; a size that may vary is not an int.
        outputs: Name and shape of each output.
        has_nms: Whether the network ends in NMS: it gives detections instead of heads.

    Returns:
        The batch size if it is fixed, else None.

    Raises:
        InvalidValueError: Naming the first mismatch.
    """
    names = [name for name, _, _ in inputs]
    if names != [INPUT_NAME]:
        raise InvalidValueError(f"{file}: the input must be {INPUT_NAME!r}", got=", ".join(names))
    _, shape, element = inputs[0]
    if element not in FLOATS:
        what = f"{file}: input {INPUT_NAME!r} must be {' or '.join(FLOATS)}"
        raise InvalidValueError(what, got=element)
    _check_shape(file, INPUT_NAME, shape, (3, spec.height, spec.width))
    batch = shape[0] if isinstance(shape[0], int) else None
    shapes = dict(outputs)
    for name, want in output_shapes(spec, has_nms).items():
        if name not in shapes:
            what = f"{file}: output {name!r} of the spec is missing"
            raise InvalidValueError(what, got=", ".join(shapes))
        _check_shape(file, name, shapes[name], want)
    return batch


def output_shapes(spec: ModelSpec, has_nms: bool) -> dict[str, tuple[int, ...]]:
    """What follows N in each output's shape."""
    if has_nms:
        most = spec.max_detections
        return dict(zip(DETECTION_NAMES, ((1,), (most, 4), (most,), (most,)), strict=True))
    depths = [spec.num_classes] * len(spec.strides) + [4] * len(spec.strides)
    shapes = [(depth, *size) for depth, size in zip(depths, spec.grid_sizes * 2, strict=True)]
    return dict(zip(spec.output_names, shapes, strict=True))


def _check_shape(file: object, name: str, got: Sequence[Any], want: tuple[int, ...]) -> None:
    fits = len(got) == 1 + len(want) and all(
        not isinstance(have, int) or have == need for have, need in zip(got[1:], want, strict=True)
    )
    if not fits:
        expected, found = (f"[{', '.join(map(str, shape))}]" for shape in (("N", *want), got))
        what = f"{file}: {name!r} does not fit the model's spec, expected {expected}"
        raise InvalidValueError(what, got=found, hint="export the model again")
