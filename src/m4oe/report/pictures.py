"""Pictures of an exam for a card: read, windowed, made small, a predicted outline drawn on, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from m4oe.report.svg import HUES
from m4oe.schema import TaskSpec

if TYPE_CHECKING:
    from m4oe.data.readers import Picture

LONGEST = 160


def thumbnail(picture: Picture, overlay: tuple[TaskSpec, Path] | None = None) -> str:
    """A PNG data URI of at most LONGEST pixels a side; of a volume its middle slice, or that with most of the mask.

    overlay: a task and the file of its predicted mask, on the picture's grid.
    """
    from PIL import Image

    mask = _read_mask(*overlay) if overlay else None
    pixels, mask = _slice(picture.values, mask)
    pixels, mask = facing(pixels, picture), None if mask is None else facing(mask, picture)
    size = size_of(pixels.shape[-2:], picture.spacing)
    shown = Image.fromarray(window(pixels)).resize(size, Image.Resampling.LANCZOS)
    if mask is not None:
        small = Image.fromarray(mask.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        shown = Image.fromarray(_outlined(np.asarray(shown.convert("RGB")).copy(), np.asarray(small)))
    return _data_uri(shown)


def _read_mask(task: TaskSpec, path: Path) -> ndarray:
    from m4oe.data.readers import read_mask

    return read_mask(str(path), task.values)


def _slice(values: ndarray, mask: ndarray | None) -> tuple[ndarray, ndarray | None]:
    """One plane of a picture (C, H, W) or (C, D, H, W) and of its mask; a mask of another shape is not drawn."""
    mask = mask if mask is not None and mask.shape == values.shape[1:] else None
    if values.ndim == 3:
        return values, mask
    plane = values.shape[1] // 2 if mask is None else int((mask > 0).sum((1, 2)).argmax())
    return values[:, plane], None if mask is None else mask[plane]


def facing(plane: ndarray, picture: Picture) -> ndarray:
    """(..., H, W) of a picture as a reader expects it: the patient's front, head and right side up or left, where the
    file says how they lie."""
    return plane[..., ::-1, ::-1] if picture.orientation is not None else plane


def size_of(shape: Sequence[int], spacing: Sequence[float] | None, longest: int = LONGEST) -> tuple[int, int]:
    """Width and height in true proportion, the longer one `longest`."""
    across, down = (spacing[-1], spacing[-2]) if spacing is not None else (1.0, 1.0)
    height, width = shape[0] * down, shape[1] * across
    scale = longest / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def window(pixels: ndarray, ends: tuple[float, float] | None = None) -> ndarray:
    """(H, W) or (H, W, 3) of 0 to 255; grey from one of `ends` to the other, by default from the darkest to the
    brightest half percent, colour as it is."""
    pixels = np.nan_to_num(pixels.astype(np.float32))
    if len(pixels) == 3:
        peak = next(top for top in (1, 255, 65535, np.inf) if pixels.max() <= top)
        scaled = pixels / (peak if np.isfinite(peak) else pixels.max())
        return (scaled.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    low, high = ends or np.percentile(pixels[0], [0.5, 99.5])
    return ((pixels[0] - low) / max(high - low, 1e-6) * 255).clip(0, 255).round().astype(np.uint8)


def _outlined(pixels: ndarray, mask: ndarray) -> ndarray:
    """`pixels` with the outline of each class of `mask`, in the colour that its name has beside the picture."""
    for index in sorted(set(np.unique(mask)) - {0}):
        inside = np.pad(mask == index, 1)
        kept = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        pixels[inside[1:-1, 1:-1] & ~kept] = rgb(outline_hue(index - 1))
    return pixels


def outline_hue(place: int) -> str:
    """Colour of the outline of the n-th foreground class: bright on dark pictures, apart for any colour vision."""
    return ("#F0E442", "#56B4E9", "#D55E00", *HUES)[place % 10]


def rgb(hue: str) -> tuple[int, ...]:
    return tuple(int(hue[place : place + 2], 16) for place in (1, 3, 5))


def _data_uri(image: object) -> str:
    return _uri(image, "png", optimize=True)


def photo_uri(pixels: ndarray) -> str:
    """A JPEG data URI of (H, W) or (H, W, 3) of 0 to 255, its colours as sharp as its light: for pictures in number."""
    from PIL import Image

    return _uri(Image.fromarray(pixels), "jpeg", quality=88, subsampling=0, optimize=True)


def _uri(image: object, form: str, **how: object) -> str:
    file = io.BytesIO()
    image.save(file, format=form, **how)  # type: ignore[attr-defined]
    return f"data:image/{form};base64," + base64.b64encode(file.getvalue()).decode("ascii")
