"""Drawing the inside of an abdomen: tissues as layers, each painted over those before it.

Lengths are in mm. Axes: X, Y, Z voxels of a scan · x to the patient's right, y to the front, z to the head, from a
point in front of the spine at the height of the kidneys' upper poles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m4oe.data.phantoms.tissue import Array

ORGANS = ("liver", "right_kidney", "left_kidney", "spleen", "stomach", "aorta", "spine", "tumour")
HILUM = np.array([34.0, 8.0, 12.0])  # where the vessels enter the liver
EVERYWHERE = float("inf")  # radius of what runs through all slices


@dataclass(frozen=True)
class Layer:
    """A tissue, and the organ that it belongs to (None: one that nobody outlines).

    depth: (X, Y, Z) float32, about how deep a voxel lies below the layer's surface; negative outside.
    """

    tissue: str
    depth: Array
    organ: str | None = None


def draw(rng: np.random.Generator, place: Array, spacing: Array, *, lesions: bool) -> list[Layer]:
    """An abdomen seen at `place` (3, X, Y, Z), voxels `spacing` (3,) apart; with 1 to 3 tumours in the liver if so.

    Its size, build and shape are drawn anew, from one description: what differs between modalities is not here.
    """
    at = place / rng.uniform(0.92, 1.08) + 6 * smooth_fields(rng, place.shape, 70 / spacing)
    trunk, cavity = _trunk(rng, at, spacing)
    inside = [
        Layer(layer.tissue, np.minimum(layer.depth, cavity - 1), layer.organ)
        for layer in [*_liver(rng, at), *_stomach(rng, at), *_kidney(rng, at, 1), *_kidney(rng, at, -1)]
    ]
    layers = [*trunk, *inside, *_great_vessels(rng, at)]
    return [*layers, *_tumours(rng, at, _visible("liver", layers))] if lesions else layers


def smooth_fields(rng: np.random.Generator, shape: tuple[int, ...], length: Array) -> Array:
    """Gaussian fields (K, X, Y, Z) float32 of mean 0 and standard deviation 1, correlated over `length` (3,) voxels."""
    knots = np.maximum(2, np.ceil(np.array(shape[1:]) / length).astype(int) + 1)
    field = rng.standard_normal((shape[0], *knots), dtype=np.float32)
    for voxels, count in zip(shape[1:], knots):
        apart = np.linspace(0, count - 1, voxels, dtype=np.float32)[:, None] - np.arange(count, dtype=np.float32)
        bumps = np.exp(-(apart**2))
        field = np.tensordot(field, bumps / np.linalg.norm(bumps, axis=1, keepdims=True), (1, 1))
    return field


def _ellipsoid(
    rng: np.random.Generator, at: Array, centre: tuple[float, ...], radii: tuple[float, ...], moves: float = 4
) -> Array:
    """Depth in an ellipsoid whose centre `moves`, and whose radii vary, from patient to patient."""
    middle = np.asarray(centre) + rng.uniform(-moves, moves, 3)
    length = np.asarray(radii) * rng.uniform(0.88, 1.14, 3)
    finite = [ray for ray in zip(at, middle.tolist(), length.tolist()) if ray[2] != EVERYWHERE]
    apart = sum(((axis - m) / r) ** 2 for axis, m, r in finite)
    return (1 - np.sqrt(apart)) * float(length.min())


def _trunk(rng: np.random.Generator, at: Array, spacing: Array) -> tuple[list[Layer], Array]:
    """Fat, wall, ribs, bowel, muscle and spine; and the depth below the wall's inner side."""
    fat = rng.uniform(10, 24)
    body = _ellipsoid(rng, at, (0, 0, 0), (138 + fat, 96 + fat, EVERYWHERE), moves=2)
    wall, cavity = body - fat, body - fat - 13 - np.clip(-0.12 * at[1], 0, 8)
    turn = np.arctan2(at[1], at[0])
    ribs = np.minimum(4 - np.abs(wall - 7), 12 * np.cos(11 * turn + (at[2] + 0.4 * at[1]) / 9) - 7)
    loops = smooth_fields(rng, (1, *at.shape[1:]), 24 / spacing)[0]
    bowel = np.minimum(np.minimum(12 * loops, cavity - 4), at[1] + 30)
    layers = [
        Layer("fat", body),
        Layer("muscle", wall),
        Layer("bone", ribs),
        Layer("fat", cavity),
        Layer("bowel", bowel),
        Layer("gas", bowel - 14),
        *(Layer("muscle", _ellipsoid(rng, at, (38 * side, -56, 0), (20, 22, EVERYWHERE))) for side in (-1, 1)),
        *_spine(rng, at),
    ]
    return layers, cavity


def _spine(rng: np.random.Generator, at: Array) -> list[Layer]:
    """A vertebral body with its cortex, an arch, and the canal between them."""
    vertebra = _ellipsoid(rng, at, (0, -54, 0), (23, 19, EVERYWHERE), moves=2)
    arch = _ellipsoid(rng, at, (0, -82, 0), (16, 12, EVERYWHERE), moves=2)
    canal = _ellipsoid(rng, at, (0, -77, 0), (8, 7, EVERYWHERE), moves=1)
    bone = np.maximum(vertebra, arch)
    return [Layer("bone", bone, "spine"), Layer("marrow", vertebra - 4, "spine"), Layer("fluid", canal)]


def _liver(rng: np.random.Generator, at: Array) -> list[Layer]:
    """Two lobes with vessels that fan out from the hilum, and the gallbladder below."""
    right = _ellipsoid(rng, at, (64, 4, 24), (58, 66, 60))
    left = _ellipsoid(rng, at, (8, 48, 34), (64, 30, 36), moves=7)
    liver = np.maximum(right, left)
    ways = np.array([0.5, 0, 0.2]) + rng.normal(0, 0.6, (6, 3))
    ways *= rng.uniform(45, 70, (6, 1)) / np.linalg.norm(ways, axis=1, keepdims=True)
    vessels = _branches(at, ways, rng.uniform(4, 6, 6))
    gallbladder = _ellipsoid(rng, at, (44, 44, -16), (13, 15, 22), moves=7)
    return [
        Layer("liver", liver, "liver"),
        Layer("vein", np.minimum(vessels, liver), "liver"),
        Layer("fluid", gallbladder),
    ]


def _branches(at: Array, ways: Array, radii: Array) -> Array:
    """Depth in vessels that run from the hilum along `ways` (V, 3), from `radii` (V,) down to two fifths of them."""
    reach, start = (of[:, None, None, None].astype(np.float32) for of in ((ways**2).sum(1), radii))
    offset = at - HILUM[:, None, None, None].astype(np.float32)
    along_way = np.tensordot(ways.astype(np.float32), offset, 1)
    share = np.clip(along_way / reach, 0, 1)
    squared = (offset**2).sum(0) - share * (2 * along_way - share * reach)
    return (start * (1 - 0.6 * share) - np.sqrt(squared.clip(0))).max(0)


def _stomach(rng: np.random.Generator, at: Array) -> list[Layer]:
    """Stomach, with gas at its top as the patient lies on the back, and the spleen behind it."""
    stomach = np.maximum(
        _ellipsoid(rng, at, (-58, 34, 34), (40, 34, 40), moves=8), _ellipsoid(rng, at, (-28, 42, -4), (38, 22, 20))
    )
    level = rng.uniform(44, 60)
    spleen = _ellipsoid(rng, at, (-92, -26, 28), (30, 42, 44), moves=6)
    return [
        Layer("spleen", spleen, "spleen"),
        Layer("stomach", stomach, "stomach"),
        Layer("gas", np.minimum(stomach - 3, at[1] - level), "stomach"),
    ]


def _kidney(rng: np.random.Generator, at: Array, side: int) -> list[Layer]:
    """Cortex and medulla, and the fat of the sinus; the right one (side 1) lies lower."""
    organ = "right_kidney" if side == 1 else "left_kidney"
    x, z = 60 * side, -26 if side == 1 else -14
    tilted = np.stack([at[0] + 0.2 * side * (at[2] - z), at[1], at[2]])
    kidney = _ellipsoid(rng, tilted, (x, -36, z), (27, 25, 50), moves=5)
    sinus = _ellipsoid(rng, tilted, (x - 20 * side, -30, z), (13, 10, 20), moves=3)
    return [Layer("cortex", kidney, organ), Layer("medulla", kidney - 8, organ), Layer("fat", sinus)]


def _great_vessels(rng: np.random.Generator, at: Array) -> list[Layer]:
    """Aorta and vena cava, side by side and equally bright: only where it lies tells which is which."""
    sway = 4 * np.sin(at[2] / 45 + rng.uniform(0, 6))
    swayed = np.stack([at[0] + sway, at[1], at[2]])
    aorta = _ellipsoid(rng, swayed, (-9, -24, 0), (11.5, 11.5, EVERYWHERE), moves=3)
    cava = _ellipsoid(rng, swayed, (21, -22, 0), (13, 10, EVERYWHERE), moves=3)
    return [Layer("blood", cava), Layer("blood", aorta, "aorta")]


def _visible(organ: str, layers: list[Layer]) -> Array:
    """Depth in what is seen of `organ` when all layers are painted."""
    depth = np.full_like(layers[0].depth, -np.inf)
    for layer in layers:
        own = layer.organ == organ
        depth = np.maximum(depth, layer.depth) if own else np.minimum(depth, -layer.depth)
    return depth


def _tumours(rng: np.random.Generator, at: Array, liver: Array) -> list[Layer]:
    """One to three tumours well inside the liver, each with a core that takes up less contrast."""
    layers = []
    for radius in rng.uniform(11, 22, rng.integers(1, 4)).tolist():
        room = np.flatnonzero(liver > min(0.7 * radius, float(0.9 * liver.max())))
        centre = at.reshape(3, -1)[:, rng.choice(room)]
        tumour = np.minimum(_ellipsoid(rng, at, tuple(centre), (radius,) * 3, moves=0), liver)
        layers += [Layer("tumour", tumour, "tumour"), Layer("core", tumour - 0.45 * radius, "tumour")]
    return layers
