"""A contact sheet: some pictures of a dataset with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.datasets.record import Dataset
from trt_afdet.draw import class_color
from trt_afdet.errors import AfdetError

#: Pixels of a tile's sides, and the most tiles.
WIDTH, HEIGHT, MOST = 320, 240, 24


def contact_sheet(datasets: Sequence[Dataset], most: int = MOST) -> npt.NDArray[np.uint8]:
    """Up to ``most`` pictures as BGR uint8 [H, W, 3]; boxes are grey where they are ignored."""
    tiles = []
    for data in datasets:
        for record in data.head(max(1, most // len(datasets))).records:
            if record.frame_index is not None:
                continue
            tile = np.full((HEIGHT, WIDTH, 3), 32, np.uint8)
            try:
                picture = data.read_image(record)
            except AfdetError:
                continue
            scale = min(WIDTH / record.width, (HEIGHT - 18) / record.height)
            size = max(1, round(record.width * scale)), max(1, round(record.height * scale))
            tile[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            for box, label, ignored in zip(
                record.boxes, record.labels, record.ignored, strict=True
            ):
                corners = [round(float(v) * scale) for v in box]
                colour = (140, 140, 140) if ignored else class_color(int(label))
                cv2.rectangle(tile, corners[:2], corners[2:], colour, 1)
                name = data.class_names[int(label)]
                place = (corners[0] + 2, max(10, corners[1] + 10))
                cv2.putText(tile, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1)
            text = record.path.name[-44:]
            place = (4, HEIGHT - 5)
            cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (230, 230, 230), 1)
            tiles.append(tile)
    tiles = tiles or [np.full((HEIGHT, WIDTH, 3), 32, np.uint8)]
    columns = math.ceil(math.sqrt(len(tiles)))
    tiles += [np.full_like(tiles[0], 32)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.asarray(np.vstack(rows), np.uint8)
