"""What phantom pictures are drawn with: noise fields, masses, microcalcifications, and ordinary picture files.

Lengths are in units of half the picture's height, so a phantom looks the same at any number of pixels.
"""

from __future__ import annotations

import gzip
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.special import expit

Array = np.ndarray
RETRACTION = 0.9  # weight that a spiculated mass takes from the fat between its spicules
SPICULE = 0.03  # half width of a spicule
STREAMED = 1  # zlib level of the PNG files: a cohort is written once, and quickly


def grid(height: int, width: int) -> tuple[Array, Array]:
    """Coordinates (y (H, 1), x (1, W)) of pixel centres: y in (-1, 1) from top to bottom, x from 0 at the left."""
    y = (2 * np.arange(height, dtype=np.float32)[:, None] + 1) / height - 1
    x = (2 * np.arange(width, dtype=np.float32)[None, :] + 1) / height
    return y, x


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], length: float | tuple[float, ...]) -> Array:
    """A Gaussian field (shape) of mean 0 and standard deviation 1, correlated over `length`."""
    pixels = np.asarray(length) * shape[0] / 2
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), pixels, mode="wrap", truncate=3)
    field -= field.mean()
    return field / np.sqrt(np.vdot(field, field) / field.size)


def round_mass(y: Array, x: Array, centre: tuple[float, float], radius: float, stretch: float, turn: float) -> Array:
    """A smooth, well circumscribed mass with total weight 1: an ellipse with a soft rim. Benign."""
    dy, dx = y - centre[0], x - centre[1]
    u = math.cos(turn) * dx + math.sin(turn) * dy
    v = math.cos(turn) * dy - math.sin(turn) * dx
    distance = np.hypot(u * stretch, v / stretch)
    mass = expit((radius - distance) / 0.02)
    return mass / mass.sum()


def spiculated_mass(y: Array, x: Array, centre: tuple[float, float], reach: float, angles: Array) -> Array:
    """A mass with total weight 1 whose spicules go out to `reach` at `angles` (K,): the sign of malignancy."""
    dy, dx = (y - centre[0])[..., None], (x - centre[1])[..., None]
    angles = angles.astype(np.float32)
    along = dx * np.cos(angles) + dy * np.sin(angles)
    across = dy * np.cos(angles) - dx * np.sin(angles)
    spicules = np.exp(-((across / SPICULE) ** 2) / 2) * np.clip(1.15 - along / reach, 0, 1) * (along > 0)
    core = np.exp(-((dy**2 + dx**2)[..., 0] / 0.055**2) / 2)
    mass = np.maximum(spicules.max(axis=-1), core)
    fat = np.exp(-(((dy**2 + dx**2)[..., 0] / (0.8 * reach) ** 2) ** 2))
    return (1 + RETRACTION) * mass / mass.sum() - RETRACTION * fat / fat.sum()


def calcifications(
    rng: np.random.Generator, shape: tuple[int, int], centre: tuple[float, float], spread: float
) -> Array:
    """A cluster of six microcalcifications around `centre`: single bright specks (H, W) of height 1."""
    specks = np.zeros(shape, np.float32)
    angle = np.arange(6) * np.pi / 3 + rng.uniform(0, np.pi)
    offset = spread * rng.uniform(0.45, 1, 6)
    rows = (centre[0] + offset * np.sin(angle) + 1) * shape[0] / 2
    columns = (centre[1] + offset * np.cos(angle)) * shape[0] / 2
    specks[rows.astype(int).clip(0, shape[0] - 1), columns.astype(int).clip(0, shape[1] - 1)] = 1
    return specks


def sharpened(picture: Array, length: float, amount: float) -> Array:
    """The picture with its detail below `length` enhanced, as reconstruction software does."""
    pixels = length * picture.shape[0] / 2
    blurred = gaussian_filter1d(gaussian_filter1d(picture, pixels, axis=0), pixels, axis=1)
    return picture + amount * (picture - blurred)


def write_png(path: Path, picture: Array, levels: int) -> None:
    """Writes a picture (H, W) or (H, W, 3) in 0..1 with `levels` grey levels: 8 bits up to 256, else 16 bits."""
    pixels = np.round(np.clip(picture, 0, 1) * (levels - 1)).astype(np.uint8 if levels <= 256 else np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png", compress_level=STREAMED)
    path.write_bytes(encoded.getbuffer())


def write_nifti(path: Path, volume: Array, millimetres: tuple[float, float, float]) -> None:
    """Writes an OCT volume (B-scans, depth, width) of 0..1 as 8-bit NIfTI: depth runs from front to back, bytes are
    the same for the same volume (gzip would store the time)."""
    import nibabel as nib

    scans, depth, width = millimetres
    image = nib.Nifti1Image(
        np.round(volume * 255).astype(np.uint8).transpose(2, 1, 0), np.diag([width, -depth, scans, 1])
    )
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), STREAMED, mtime=0))
