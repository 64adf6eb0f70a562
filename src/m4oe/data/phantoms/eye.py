"""Drawing one eye: a colour fundus photograph with its optic disc, and an OCT volume of the macula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from m4oe.data.phantoms import tissue
from m4oe.data.phantoms.tissue import Array

BACKGROUND, RIM, CUP = 255, 128, 0  # pixel values of the mask
FIELD = 0.94  # radius of the round field of view
RETINA = np.array([0.78, 0.36, 0.14], np.float32)
DISC = np.array([1.0, 0.68, 0.36], np.float32)
PALLOR = np.array([1.0, 0.95, 0.8], np.float32)
OXYGEN = np.array([0.35, 0.75, 0.8], np.float32)  # share of the light that blood takes, by colour
VOLUME = (16, 48, 48)  # B-scans, depth, width
MILLIMETRES = (0.375, 0.04, 0.125)  # the same axes


@dataclass(frozen=True)
class Eye:
    """cup: vertical cup-to-disc ratio · fibre: thickness of the nerve fibre layer, 1 is full · right: a right eye."""

    cup: float
    fibre: float
    right: bool


def draw_fundus(rng: np.random.Generator, eye: Eye, pixels: int) -> tuple[Array, Array]:
    """A photograph (H, W, 3) in 0..1 and its mask (H, W) uint8 of background, rim and cup; the disc lies nasally."""
    y, x = tissue.grid(pixels, pixels)
    x = (x - 1) * (1 if eye.right else -1)
    centre, radius = (rng.uniform(-0.08, 0.08), rng.uniform(0.44, 0.54)), rng.uniform(0.2, 0.25)
    disc = _ellipse(y, x, centre, radius, radius * rng.uniform(0.86, 0.96))
    drift = (centre[0], centre[1] - 0.02)
    cup = _ellipse(y, x, drift, eye.cup * radius, eye.cup * radius * rng.uniform(0.85, 0.95))
    light = 0.92 - 0.3 * (x**2 + y**2) + 0.05 * tissue.smooth_noise(rng, (pixels, pixels), 0.25)
    light = light - 0.3 * np.exp(-(((x + 0.12) ** 2 + (y - 0.06) ** 2) / 0.16**2))
    colour = RETINA * rng.uniform(0.85, 1.15, 3).astype(np.float32) * light[..., None]
    colour = _over(colour, DISC * 0.9, _soft(disc, 0.08))
    colour = _over(colour, PALLOR, 0.9 * _soft(cup, 0.14))
    blood = _vessels(rng, centre, eye.right, pixels) * (1 - 0.45 * _soft(cup, 0.14))
    colour = colour * (1 - OXYGEN * blood[..., None])
    colour = gaussian_filter(colour, (0.5, 0.5, 0)) + 0.012 * rng.standard_normal(colour.shape, dtype=np.float32)
    field = expit((FIELD - np.hypot(x, y)) / 0.008)
    mask = np.where(cup < 1, CUP, np.where(disc < 1, RIM, BACKGROUND)).astype(np.uint8)
    return np.clip(rng.uniform(0.85, 1.1) * colour * field[..., None], 0, 1), mask


def _ellipse(y: Array, x: Array, centre: tuple[float, float], tall: float, wide: float) -> Array:
    """Below 1 within the ellipse."""
    return np.hypot((y - centre[0]) / tall, (x - centre[1]) / wide)


def _soft(distance: Array, edge: float) -> Array:
    return expit((1 - distance) / edge)


def _over(picture: Array, colour: Array, cover: Array) -> Array:
    return picture * (1 - cover[..., None]) + colour * cover[..., None]


def _vessels(rng: np.random.Generator, centre: tuple[float, float], right: bool, pixels: int) -> Array:
    """Depth of blood (H, W), 0..1: two arcades that sweep from the disc round the macula, nasal vessels, branches."""
    drawn = np.zeros((pixels, pixels), np.float32)
    step = np.linspace(0, 1, 160)
    for up in (-1, 1):
        for calibre, spread in ((0.75, rng.uniform(0.5, 0.6)), (0.5, rng.uniform(0.42, 0.5))):
            px = centre[1] - 1.45 * step**1.25 + 0.02 * np.sin(rng.uniform(8, 14) * step)
            py = centre[0] + up * spread * np.tanh(4 * step) * (1 - 0.4 * step**2)
            _stroke(drawn, py, px, calibre * (1 - 0.6 * step), right)
            for start in rng.integers(25, 110, 3):
                out = np.linspace(0, rng.uniform(0.2, 0.4), 60)
                lean = up * rng.choice([-0.8, 1.2])
                _stroke(
                    drawn, py[start] + lean * out, px[start] - out + 0.3 * out**2, np.full(60, 0.3 * calibre), right
                )
        out = np.linspace(0, 0.4, 60)
        _stroke(drawn, centre[0] + up * (0.1 + rng.uniform(0.5, 1)) * out, centre[1] + out, np.full(60, 0.4), right)
    return np.clip(gaussian_filter(drawn, pixels / 160) * 1.5, 0, 0.8)


def _stroke(drawn: Array, y: Array, x: Array, calibre: Array, right: bool) -> None:
    half = len(drawn) / 2
    rows = ((y + 1) * half).astype(int)
    columns = (((x if right else -x) + 1) * half).astype(int)
    seen = (rows >= 0) & (rows < len(drawn)) & (columns >= 0) & (columns < len(drawn))
    np.maximum.at(drawn, (rows[seen], columns[seen]), calibre[seen].astype(np.float32))


def draw_oct(rng: np.random.Generator, eye: Eye) -> Array:
    """An OCT volume (VOLUME: B-scans, depth from the vitreous inwards, width) in 0..1, centred on the fovea."""
    scans, depth, width = VOLUME
    v = (np.arange(scans) - scans / 2 + 0.5)[:, None] / (scans / 2)
    u = (np.arange(width) - width / 2 + 0.5)[None, :] / (width / 2) * (1 if eye.right else -1)
    pit = np.exp(-(u**2 + v**2) / 0.28**2)
    floor = 0.74 + 0.05 * rng.uniform(-1, 1) * u + 0.06 * u**2 * rng.uniform(0.2, 1) + rng.uniform(-0.05, 0.05)
    fibre = eye.fibre * (0.045 + 0.075 * (u + 1) / 2 + 0.03 * np.abs(v)) * (1 - pit)
    inner = 0.3 * (1 - 0.62 * pit) * rng.uniform(0.92, 1.08)
    ends = np.cumsum(np.stack([fibre, 0.42 * inner, 0.14 * inner, 0.1 * inner, 0.34 * inner]), axis=0)
    top = floor - ends[-1] + fibre.mean() - 0.09
    edges = np.concatenate([top[None], top + ends, (top + ends[-1] + 0.055)[None]])
    bright = np.array([0.06, 0.85, 0.5, 0.24, 0.48, 0.2, 0.95, 0.42])
    z = ((np.arange(depth) + 0.5) / depth)[None, :, None]
    layer = (z[None] > edges[:, :, None, :]).sum(axis=0)
    signal = bright[layer] * np.where(layer == 7, np.exp(-(z - edges[-1][:, None, :]) / 0.16), 1)
    signal = gaussian_filter(signal, (0, 0.5, 0.4)) * rng.gamma(12, 1 / 12, VOLUME)
    return np.clip(rng.uniform(0.8, 1.05) * signal + 0.02 * rng.random(VOLUME), 0, 1).astype(np.float32)
