"""Scanning an abdomen: what each modality makes of the tissues, on its own grid, with its own blur and noise.

Axes: X, Y, Z voxels, to the patient's right, front and head before the scan is tilted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from m4oe.data.phantoms import anatomy
from m4oe.data.phantoms.tissue import Array

AIR = -1000.0  # HU
EDGE = 8  # mm from a surface, beyond which nothing of a layer is seen

# What a tissue looks like: HU in portal venous phase · share of the full signal, T2-weighted without fat · the same,
# T1-weighted after gadolinium, early, when tumours outshine the liver.
TISSUES: Mapping[str, tuple[float, float, float]] = {
    "fat": (-100, 0.29, 0.24),
    "muscle": (55, 0.27, 0.54),
    "bone": (300, 0.12, 0.15),
    "marrow": (150, 0.37, 0.54),
    "bowel": (40, 0.66, 0.57),
    "gas": (-850, 0.03, 0.03),
    "fluid": (12, 0.90, 0.20),
    "liver": (68, 0.34, 0.56),
    "vein": (105, 0.22, 0.72),
    "spleen": (78, 0.62, 0.63),
    "stomach": (28, 0.74, 0.24),
    "cortex": (125, 0.58, 0.88),
    "medulla": (95, 0.72, 0.72),
    "blood": (135, 0.14, 0.88),
    "tumour": (90, 0.55, 0.90),
    "core": (50, 0.70, 0.70),
}


@dataclass(frozen=True)
class Scanner:
    """How a modality scans. Pairs are the least and the most of what differs between patients."""

    look: int  # column of TISSUES
    air: float  # what is outside the patient
    spread: float  # of a tissue's look between patients, one standard deviation
    row: tuple[float, float]  # mm
    rows: float  # of a slice, as a share of its columns
    slices: tuple[int, int]
    thickness: float  # mm
    above: float  # mm from the anatomy's origin to the middle slice
    tilt: float  # degrees at most, about each axis
    expose: Callable[[np.random.Generator, Array], Array]  # noise, and the scale of the file


@dataclass(frozen=True)
class Scan:
    """values (X, Y, Z) int16 · organs (X, Y, Z) uint8: 0, or 1 + the place in anatomy.ORGANS · affine (4, 4): voxels to
    RAS+ mm."""

    values: Array
    organs: Array
    affine: Array


def _radiograph(rng: np.random.Generator, picture: Array) -> Array:
    """HU with the grainy noise of a reconstruction."""
    grain = gaussian_filter(rng.standard_normal(picture.shape, dtype=np.float32), (0.6, 0.6, 0))
    noisy = picture + rng.uniform(14, 22) * grain / grain.std()
    return np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)


def _resonance(rng: np.random.Generator, picture: Array) -> Array:
    """Magnitudes in units of nobody's, unevenly received: Rician noise, positive where there is no signal."""
    received = picture * np.exp(0.28 * anatomy.smooth_fields(rng, (1, *picture.shape), np.array(picture.shape))[0])
    real, imaginary = rng.uniform(0.025, 0.04) * rng.standard_normal((2, *picture.shape), dtype=np.float32)
    magnitude = np.hypot(received + real, imaginary)
    return np.rint(np.exp(rng.uniform(np.log(150), np.log(3000))) * magnitude).astype(np.int16)


SCANNERS: Mapping[str, Scanner] = {
    "ct": Scanner(0, AIR, 6, (340, 390), 1, (21, 25), 5, 4, 0, _radiograph),
    "mr": Scanner(1, 0, 0.03, (340, 380), 0.84, (17, 21), 6, 0, 5, _resonance),
    "ce_mr": Scanner(2, 0, 0.03, (310, 350), 0.92, (22, 26), 4.5, 10, 8, _resonance),
}


def scan(rng: np.random.Generator, modality: str, size: int) -> Scan:
    """One patient in the scanner of `modality`, slices of `size` columns. Tumours are in those who get contrast MR."""
    scanner = SCANNERS[modality]
    shape = (size, round(scanner.rows * size), int(rng.integers(*scanner.slices, endpoint=True)))
    spacing = np.array([*[rng.uniform(*scanner.row) / size] * 2, scanner.thickness])
    axes = _tilted(rng, scanner.tilt) * spacing
    middle = np.array([*rng.uniform(-8, 8, 2), scanner.above + rng.uniform(-10, 10)])
    corner = middle - axes @ (np.array(shape) - 1) / 2
    place = np.tensordot(axes.astype(np.float32), np.indices(shape, np.float32), 1)
    place += corner[:, None, None, None].astype(np.float32)
    layers = anatomy.draw(rng, place, spacing, lesions=modality == "ce_mr")
    picture, organs = _painted(rng, layers, scanner)
    blurred = gaussian_filter(picture, (0.55, 0.55, 0.35))
    table = np.array([*rng.uniform(-30, 30, 2), rng.uniform(-900, 100)])
    affine = np.vstack([np.column_stack([axes, corner + table]), [0, 0, 0, 1]])
    return Scan(scanner.expose(rng, blurred), organs, affine)


def _tilted(rng: np.random.Generator, most: float) -> Array:
    """A rotation (3, 3) by some degrees about each axis."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", rng.uniform(-most, most, 3), degrees=True).as_matrix()


def _painted(rng: np.random.Generator, layers: list[anatomy.Layer], scanner: Scanner) -> tuple[Array, Array]:
    """The picture (X, Y, Z) float32 of soft-edged layers, and organs (X, Y, Z) uint8 with hard edges."""
    shade = {name: looks[scanner.look] + scanner.spread * rng.standard_normal() for name, looks in TISSUES.items()}
    picture = np.full_like(layers[0].depth, scanner.air)
    organs = np.zeros(picture.shape, np.uint8)
    for layer in layers:
        near = layer.depth > -EDGE
        picture[near] += expit(layer.depth[near]) * (shade[layer.tissue] - picture[near])
        organs[layer.depth > 0] = 1 + anatomy.ORGANS.index(layer.organ) if layer.organ else 0
    return picture, organs
