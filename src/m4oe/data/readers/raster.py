"""PNG, JPEG, TIFF, BMP and PGM by Pillow, at full bit depth. Axes: D pages · H rows · W columns."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image, ImageOps, ImageSequence

from m4oe.data.readers.picture import Form, Picture, check_size
from m4oe.errors import UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM")
GREY = {"1": 255.0, "L": 255.0, "I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I": None, "F": None}
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# Pillow keeps the first byte of 16-bit colour; told that the bytes are in the other order, it keeps the second.
OTHER_ORDER = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B" if sys.byteorder == "little" else "RGB;16L",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B" if sys.byteorder == "little" else "RGBA;16L",
}
_LIMIT = threading.Lock()
WHITE_IS_ZERO = 0
PHOTOMETRIC = 262


def read(path: Path) -> Picture:
    """The picture in a raster file: pages of a TIFF are slices, transparency is dropped, EXIF rotation applied.

    Raises UserError for what Pillow would not give exactly, and for pages of different sizes.
    """
    with opened(path) as image:
        pages = [_page(page, path) for page in _pages(image, path)]
    values, full_scale = [page[0] for page in pages], pages[0][1]
    if len({(page.shape, scale) for page, scale in pages}) > 1:
        raise UserError(f"{path}: its pages differ in size or depth; save the pages of one volume alone")
    stacked = values[0] if len(values) == 1 else np.stack(values, axis=1)
    return Picture(stacked, source=str(path), full_scale=full_scale, colour=len(stacked) == 3)


def read_mask(path: Path) -> Picture:
    """A mask: values (1, H, W) or (1, D, H, W), of a palette the indices, of 1 bit 0 and 255.

    Raises UserError for a mask in true colour.
    """
    with opened(path) as image:
        pages = [_indices(page, path) for page in _pages(image, path)]
    if len({page.shape for page in pages}) > 1:
        raise UserError(f"{path}: its pages differ in size; save the pages of one volume alone")
    return Picture((pages[0] if len(pages) == 1 else np.stack(pages))[None], source=str(path))


def form(path: Path) -> Form:
    """From the header."""
    with opened(path) as image:
        axes = 3 if _frames(image) > 1 else 2
        return Form(axes, 3, colour=True) if image.mode in COLOUR else Form(axes)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow's image, however large up to picture.MOST_PIXELS."""
    with _opened_however_large(path) as image:
        check_size((image.width, image.height, _frames(image)), path)
        yield image


def _opened_however_large(path: Path) -> Image.Image:
    """Pillow's own limit is for the whole process, and looked at when a file is opened: one thread at a time."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _frames(image: Image.Image) -> int:
    """Slices: only a TIFF's pages are; a second picture in a JPEG is a preview or a depth map."""
    return int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1


def _pages(image: Image.Image, path: Path) -> Iterator[Image.Image]:
    frames = _frames(image)
    if frames > 1 and image.format != "TIFF":
        raise UserError(f"{path}: an animation of {frames} pictures; save the one to be read")
    yield from ImageSequence.Iterator(image) if frames > 1 else [image]


def _page(page: Image.Image, path: Path) -> tuple[ndarray, float | None]:
    """Values (1 or 3, H, W) float32 of one page, and the largest that its depth allows."""
    depth = _depth(page, path)
    if depth == 16:
        return _sixteen_bit_colour(page, path)
    page = ImageOps.exif_transpose(page)
    if page.mode in GREY:
        grey = np.asarray(page, np.float32) * (255 if page.mode == "1" else 1)
        return grey[None], GREY[page.mode]
    if page.mode == "LA":
        return np.asarray(page, np.float32)[None, ..., 0], 255.0
    if page.mode not in COLOUR:
        raise UserError(f"{path}: pixels of the form {page.mode!r}; save it as grey or RGB")
    return np.asarray(_opaque(page), np.float32).transpose(2, 0, 1), 255.0


def _opaque(page: Image.Image) -> Image.Image:
    """RGB as stored, without looking through what is transparent."""
    if page.mode in ("P", "PA"):
        page = page.convert("RGBA")
    return page.convert("RGB")


def _depth(page: Image.Image, path: Path) -> int:
    """16 for colour of 16 bits, which needs two passes; else 8. Raises UserError for what would lose its values."""
    form = _raw_forms(page)
    if page.mode.startswith("I;16") and getattr(page, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise UserError(f"{path}: 16 bits with white as 0; save it with black as 0")
    if page.mode in ("I;16", "I;16L", "I;16B", "I", "F") or not any(";16" in raw for raw in form):
        return 8
    if all(raw in OTHER_ORDER for raw in form):
        return 16
    raise UserError(f"{path}: 16 bits in the form {form[0]!r}; save it as grey, or RGB without transparency")


def _raw_forms(page: Image.Image) -> list[str]:
    """How the pixels are laid out in the file: the same for every tile of it, or more than one."""
    args = [tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0] for tile in page.tile]
    return sorted({str(arg) for arg in args})


def _sixteen_bit_colour(page: Image.Image, path: Path) -> tuple[ndarray, float]:
    """Two passes: the high bytes, then the low ones."""
    frame = page.tell()
    with opened(path) as again:
        again.seek(frame)
        again.tile = [tile._replace(args=_in_other_order(tile.args)) for tile in again.tile]
        high, low = (np.asarray(ImageOps.exif_transpose(half), np.float32) for half in (page, again))
    return (high * 256 + low)[..., :3].transpose(2, 0, 1), 65535.0


def _in_other_order(args: str | tuple[object, ...]) -> str | tuple[object, ...]:
    return OTHER_ORDER[args] if isinstance(args, str) else (OTHER_ORDER[str(args[0])], *args[1:])


def _indices(page: Image.Image, path: Path) -> ndarray:
    if page.mode == "1":
        return np.asarray(page, np.int64) * 255
    if page.mode in ("L", "P") or (page.mode in GREY and _depth(page, path)):
        return np.asarray(page)
    channels = np.asarray(page)
    if channels.ndim == 3 and (channels[..., :3] == channels[..., :1]).all() and page.mode in ("RGB", "RGBA"):
        return channels[..., 0]
    raise UserError(f"{path}: a mask in colours ({page.mode}); save it with one number for a pixel, or with a palette")
