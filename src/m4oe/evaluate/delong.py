"""DeLong's covariance of areas under ROC curves of several scores on the same exams.

E. R. DeLong et al., Biometrics 44 (1988); from midranks in O(P log P), X. Sun and W. Xu, IEEE SPL 21 (2014).
Axes: K scores · P exams, one a patient.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def delong(positive: ndarray, scores: ndarray) -> tuple[ndarray, ndarray]:
    """(K,) areas and their (K, K) covariance; positive (P,) bool, scores (K, P).

    NaN where there are fewer than two exams of either class: nothing varies then.
    """
    first, second = scores[:, positive], scores[:, ~positive]
    m, n = first.shape[1], second.shape[1]
    if min(m, n) < 2:
        return np.full(len(scores), np.nan), np.full((len(scores), len(scores)), np.nan)
    ranks = _midranks(np.concatenate([first, second], 1))
    above = (ranks[:, :m] - _midranks(first)) / n  # of each positive, the share of negatives below it
    below = 1 - (ranks[:, m:] - _midranks(second)) / m  # of each negative, the share of positives above it
    return above.mean(1), np.atleast_2d(np.cov(above)) / m + np.atleast_2d(np.cov(below)) / n


def delong_test(positive: ndarray, a: ndarray, b: ndarray) -> float | None:
    """Two-sided p of equal mean areas of the scores a (S, P) and b (Z, P), models trained from S and Z seeds.

    It asks whether these very models differ on other patients; how seeds differ is no part of it. None where an area
    has no variance estimate.
    """
    from scipy.stats import norm

    areas, covariance = delong(positive, np.concatenate([a, b]))
    contrast = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))])
    difference, variance = contrast @ areas, contrast @ covariance @ contrast
    if np.isnan(variance):
        return None
    if variance < 1e-15:  # the same ranking of every pair
        return 1.0 if abs(difference) < 1e-12 else 0.0
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def _midranks(values: ndarray) -> ndarray:
    """Ranks from 1 along the last axis, equal values sharing their mean rank."""
    from scipy.stats import rankdata

    return rankdata(values, axis=-1)
