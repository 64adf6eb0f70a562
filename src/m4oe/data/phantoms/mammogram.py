"""Drawing one mammographic picture from what it shall show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from m4oe.data.phantoms import tissue
from m4oe.data.phantoms.tissue import Array

MASS_WEIGHT = 0.046  # brightness times area of a mass, malignant or not: one for both, so that histograms tell little
MOST = 2
RADIUS = (0.14, 0.18)
REACH = (0.3, 0.36)
NODULES = 0.26
GRAIN = 0.03  # of a nodule, about a pixel: finer than ducts and lobes, which pictures must not confuse it with
SPECKS = 0.5
NEAR, FAR = 0.3, 0.74  # depth of a cluster of microcalcifications, as a share of the breast's depth


@dataclass(frozen=True)
class Shape:
    """A breast's form, shared by its views. depth, half: extents · centre: height of the nipple."""

    depth: float
    half: float
    centre: float


@dataclass(frozen=True)
class Look:
    """What one picture shall show.

    view: projection · synthetic: a synthetic 2D picture, or a full-field one · share: of the breast that is
    fibroglandular, 0..1 · pattern: nodularity of the parenchyma, 0..1 · malignant: one of the masses is spiculated ·
    calcification: where a cluster of microcalcifications lies: "near" the chest wall, "far" from it, or None ·
    clarity: how much is seen of spicules and calcifications, from 0, nothing, to 1.
    """

    view: Literal["cc", "mlo"]
    synthetic: bool
    share: float
    pattern: float
    malignant: bool
    calcification: Literal["near", "far"] | None
    clarity: float = 1.0


def draw_shape(rng: np.random.Generator) -> Shape:
    return Shape(depth=rng.uniform(1.15, 1.45), half=rng.uniform(0.8, 0.93), centre=rng.uniform(-0.06, 0.06))


def draw(rng: np.random.Generator, shape: Shape, look: Look, height: int, width: int) -> Array:
    """A mammogram (H, W) in 0..1: chest wall at the left, nipple to the right, dark background."""
    y, x = tissue.grid(height, width)
    form = _projected(rng, shape, look.view)
    rho = _radius(y, x, form, look.view)
    thickness = np.sqrt(np.clip(1 - rho**3, 0, 1))
    breast = 0.16 * thickness + 0.36 * thickness * _parenchyma(rng, y, x, form, rho, look)
    breast += 0.04 * np.exp(-(((rho - 0.985) / 0.02) ** 2)) + _nipple(y, x, form)
    breast += _masses(rng, y, x, form, look)
    if look.view == "mlo":
        breast = _with_pectoral(rng, breast, y, x)
    if look.calcification:
        breast += look.clarity * _cluster(rng, (height, width), form, look.calcification)
    return _exposed(rng, breast, rho, look.synthetic)


def _projected(rng: np.random.Generator, shape: Shape, view: str) -> Shape:
    """The breast as a view sees it: obliquely it hangs lower and looks longer."""
    depth, half = shape.depth * rng.uniform(0.96, 1.04), shape.half * rng.uniform(0.97, 1.03)
    if view == "cc":
        return Shape(depth, half, shape.centre)
    return Shape(depth * 0.95, half, shape.centre + 0.22)


def _radius(y: Array, x: Array, form: Shape, view: str) -> Array:
    """0 at the middle of the chest wall, 1 on the skin; above the nipple an oblique view runs out to the axilla."""
    above = 1.35 if view == "mlo" else 1.0
    half = np.where(y < form.centre, form.half * above, min(form.half, 0.97 - form.centre)).astype(np.float32)
    return np.sqrt((x / form.depth) ** 2 + (np.abs(y - form.centre) / half) ** 2.2)


def _parenchyma(rng: np.random.Generator, y: Array, x: Array, form: Shape, rho: Array, look: Look) -> Array:
    """Fibroglandular brightness, about 0..1: lobes gathered behind the nipple, ducts that run to it, nodules."""
    focus = np.hypot((x / form.depth - 0.5) / 0.42, (y - form.centre) / (0.75 * form.half))
    lobes = tissue.smooth_noise(rng, rho.shape, (0.1, 0.16)) - 1.5 * focus
    inside = rho < 0.9
    edge = np.quantile(lobes[inside], 1 - look.share)
    glandular = np.clip(1 - (rho / 0.95) ** 12, 0, 1) / (1 + np.exp((edge - lobes) / 0.22))
    ducts = tissue.smooth_noise(rng, rho.shape, (0.03, 0.16))
    nodules = (0.02 + NODULES * look.pattern) * tissue.smooth_noise(rng, rho.shape, GRAIN)
    return glandular * (0.62 + 0.1 * ducts) + (0.5 + 0.2 * glandular) * nodules + 0.05 * ducts


def _nipple(y: Array, x: Array, form: Shape) -> Array:
    return 0.2 * np.exp(-(((x - form.depth) / 0.05) ** 2 + ((y - form.centre) / 0.06) ** 2))


def _masses(rng: np.random.Generator, y: Array, x: Array, form: Shape, look: Look) -> Array:
    """One to three masses of one weight; in a malignant picture the first is spiculated, else all are round."""
    total = np.zeros((y.size, x.size), np.float32)
    for k, centre in enumerate(_places(rng, form, look.view, rng.integers(1, MOST + 1))):
        if k == 0 and look.malignant:
            angles = np.arange(7) * 2 * np.pi / 7 + rng.uniform(0, 2 * np.pi) + rng.uniform(-0.25, 0.25, 7)
            mass = tissue.spiculated_mass(y, x, centre, rng.uniform(*REACH), angles)
            if look.clarity < 1:
                mass = look.clarity * mass + (1 - look.clarity) * _round(rng, y, x, centre)
        else:
            mass = _round(rng, y, x, centre)
        total += MASS_WEIGHT * rng.uniform(0.85, 1.15) * mass * (y.size / 2) ** 2
    return total


def _round(rng: np.random.Generator, y: Array, x: Array, centre: tuple[float, float]) -> Array:
    stretch, turn = rng.uniform(1, 1.2), rng.uniform(0, np.pi)
    return tissue.round_mass(y, x, centre, rng.uniform(*RADIUS), stretch, turn)


def _places(rng: np.random.Generator, form: Shape, view: str, count: int) -> list[tuple[float, float]]:
    """`count` centres (y, x) within the breast, in sectors of their own so that masses do not lie on each other."""
    sector = (rng.permutation(MOST)[:count] + rng.uniform(0.15, 0.85, count)) / MOST
    angle = np.pi * (sector - 0.5) * 0.9
    reach = rng.uniform(0.36, 0.62, count)
    lift = 0.85 if view == "cc" else 0.7
    y = form.centre + lift * form.half * reach * np.sin(angle) * 1.1
    x = 0.12 * form.depth + form.depth * reach * np.cos(angle)
    return list(zip(y.tolist(), x.tolist()))


def _with_pectoral(rng: np.random.Generator, breast: Array, y: Array, x: Array) -> Array:
    """The breast with the bright wedge of the pectoral muscle in its upper corner at the chest wall."""
    wedge = rng.uniform(0.42, 0.55) * (1 - (y + 1) / rng.uniform(1.0, 1.25)) - x
    muscle = 1 / (1 + np.exp(-wedge / 0.025))
    return breast * (1 - 0.8 * muscle) + muscle * rng.uniform(0.4, 0.55)


def _cluster(rng: np.random.Generator, pixels: tuple[int, int], form: Shape, depth: str) -> Array:
    x = form.depth * ((NEAR if depth == "near" else FAR) + rng.uniform(-0.08, 0.08))
    y = form.centre + form.half * rng.uniform(-0.3, 0.3)
    return SPECKS * tissue.calcifications(rng, pixels, (y, x), spread=0.14)


def _exposed(rng: np.random.Generator, breast: Array, rho: Array, synthetic: bool) -> Array:
    """The picture as the detector gives it: its own gain and contrast, noise, and nothing outside the skin."""
    if synthetic:
        breast = tissue.sharpened(gaussian_filter(breast, 0.35), 0.06, 0.7)
    else:
        breast = breast + 0.008 * rng.standard_normal(breast.shape, dtype=np.float32)
    picture = rng.uniform(0.9, 1.2) * np.clip(breast, 0, None) ** rng.uniform(0.85, 1.15)
    outside = 1 / (1 + np.exp((1.0 - rho) / 0.012))
    return np.clip(picture * (1 - outside), 0, 1)
