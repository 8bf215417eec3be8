"""What a backend is: a network that can be opened, run and closed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError
from trt_afdet.spec import METADATA_KEY, ModelSpec

#: Name of the network's only input.
INPUT_NAME = "images"


@runtime_checkable
class Backend(Protocol):
    """Runs a network. Entering the context opens it, leaving closes it; ``infer`` opens it too.

    Attributes:
        spec: What the network expects and returns.
        batch_size: Images per call if the file fixes it, else None.
    """

    spec: ModelSpec
    batch_size: int | None

    def infer(self, images: npt.NDArray[np.float32]) -> list[npt.NDArray[np.floating[Any]]]:
        """Runs the network.

        Args:
            images: float32 [N, 3, H, W], normalised.

        Returns:
            The outputs in the order of ``spec.output_names``, each with N in front.

        Raises:
            InvalidValueError: If the images' shape is not what the network takes.
            RunError: If the run fails.
        """
        ...

    def close(self) -> None:
        """Frees the network; closing twice is fine."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def read_spec(text: str | None, file: object) -> ModelSpec:
    """The spec stored with a network.

    Raises:
        InvalidValueError: If there is none, it cannot be read, or it is of a newer layout.
    """
    if not text:
        raise InvalidValueError(
            f"{file} is no trt-afdet model: it carries no {METADATA_KEY!r} metadata",
            hint="export one with `trt-afdet export`",
        )
    try:
        return ModelSpec.from_json(text)
    except InvalidValueError as error:
        raise InvalidValueError(f"{file}: {error.what}", got=error.got, hint=error.hint) from error


def check_network(
    spec: ModelSpec,
    file: object,
    inputs: Sequence[tuple[str, Sequence[Any], str]],
    outputs: Sequence[tuple[str, Sequence[Any]]],
) -> int | None:
    """Checks that a network's interface is the one its spec describes.

    Args:
        spec: The network's spec.
        file: For the message.
        inputs: Name, shape and element type of each input; a size that may vary is no int.
        outputs: Name and shape of each output.

    Returns:
        The batch size if it is fixed, else None.

    Raises:
        InvalidValueError: Naming the first mismatch.
    """
    names = [name for name, _, _ in inputs]
    if names != [INPUT_NAME]:
        raise InvalidValueError(f"{file}: the input must be {INPUT_NAME!r}", got=", ".join(names))
    _, shape, element = inputs[0]
    if element != "float32":
        raise InvalidValueError(f"{file}: input {INPUT_NAME!r} must be float32", got=element)
    _check_shape(file, INPUT_NAME, shape, (3, spec.height, spec.width))
    batch = shape[0] if isinstance(shape[0], int) else None
    shapes = dict(outputs)
    depths = [spec.num_classes] * len(spec.strides) + [4] * len(spec.strides)
    for name, depth, size in zip(spec.output_names, depths, spec.grid_sizes * 2, strict=True):
        if name not in shapes:
            raise InvalidValueError(
                f"{file}: output {name!r} of the spec is missing", got=", ".join(shapes)
            )
        _check_shape(file, name, shapes[name], (depth, *size))
    return batch


def _check_shape(file: object, name: str, got: Sequence[Any], want: tuple[int, ...]) -> None:
    expected = ("N", *want)
    fits = len(got) == len(expected) and all(
        not isinstance(have, int) or have == need for have, need in zip(got[1:], want, strict=True)
    )
    if not fits:
        raise InvalidValueError(
            f"{file}: {name!r} does not fit the model's spec, expected "
            f"[{', '.join(map(str, expected))}]",
            got=f"[{', '.join(map(str, got))}]",
            hint="export the model again",
        )
