"""Iterative stratification (Sechidis et al. 2011): parts that resemble each other in every label, the rarest first.

Axes: Q patients · K kinds of label · P parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratify(pairs: np.ndarray, shares: Sequence[float], fixed: np.ndarray) -> np.ndarray:
    """(Q,) int part of each patient, in sizes that follow `shares` (P,).

    pairs (·, 2) int: patient and a kind of label that this patient has, sorted, no pair twice; everyone has one ·
    fixed (Q,) int: a part that is settled already, or -1. Patients are taken in the order of their numbers; a kind
    that as many patients have as there are parts reaches every part, the first giving to the others.
    """
    part = np.full(len(fixed), -1)
    kinds_of = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
    members = {int(kind): pairs[pairs[:, 1] == kind, 0].tolist() for kind in np.unique(pairs[:, 1])}
    wanted = {kind: seats(len(patients), shares) for kind, patients in members.items()}
    left = {kind: len(patients) for kind, patients in members.items()}
    room = seats(len(fixed), shares, whole=True)

    def place(patient: int, where: int) -> None:
        part[patient] = where
        room[where] -= 1
        for kind in kinds_of[patient].tolist():
            wanted[kind][where] -= 1
            left[kind] -= 1

    for patient in np.flatnonzero(fixed >= 0).tolist():
        place(patient, int(fixed[patient]))
    open_parts = [p for p, share in enumerate(shares) if share > 0]
    while any(left.values()):
        kind = min((count, kind) for kind, count in left.items() if count)[1]
        for patient in members[kind]:
            if part[patient] < 0:
                candidates = [p for p in open_parts if room[p] > 0] or open_parts
                place(patient, max(candidates, key=lambda p: (wanted[kind][p], room[p])))
    return part


def seats(count: int, shares: Sequence[float], whole: bool = False) -> list[float]:
    """How many of `count` go to each part: by `shares`, at least one each where there are enough, the first part
    giving to the others; `whole` numbers by largest remainder."""
    some = [share > 0 for share in shares]
    least = 1.0 if count >= sum(some) else 0.0
    wanted = [max(share * count, least) if share > 0 else 0.0 for share in shares]
    if whole:
        wanted = [float(np.floor(seat)) for seat in wanted]
        for p in sorted(range(len(shares)), key=lambda p: (shares[p] > 0, shares[p] * count % 1), reverse=True):
            if sum(wanted) < count:
                wanted[p] += 1
    wanted[int(np.argmax(shares))] += count - sum(wanted)
    return wanted
