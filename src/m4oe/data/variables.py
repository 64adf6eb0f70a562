"""Plain variables (age, sex, ...) as numbers for a network. V: width of the vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from m4oe.data.columns import number
from m4oe.errors import UserError
from m4oe.schema import Stream, Variable

FEW = 0.1


def fit_variable(column: str, texts: np.ndarray) -> Variable:
    """The variable whose training cells are `texts`, empty where missing: a number if all filled cells are numbers.

    Raises UserError where nearly all are numbers, and the rest are more likely codes for "missing" than categories.
    """
    filled = texts[texts != ""]
    values = np.array([number(text) for text in filled])
    words = np.isnan(values)
    if 0 < words.sum() <= FEW * len(filled):
        raise UserError(
            f"column {column!r}: {filled[words][0]!r} is not a number, and nearly all others are; leave a missing "
            "value empty, or write every cell as a word if these are categories"
        )
    if words.any():
        return Variable(column=column, categories=tuple(sorted(set(filled.tolist()))))
    spread = float(values.std()) if len(values) else 0.0
    return Variable(column=column, mean=float(values.mean()) if len(values) else 0.0, sd=spread or 1.0)


def encode_variables(stream: Stream, row: Mapping[str, str]) -> np.ndarray:
    """(V,) float32: a number as its standardised value and 1, or 0 and 0 where missing; a category as one-hot, or
    zeros where it is missing or was not met in training.

    Raises UserError for text in the column of a number.
    """
    parts = [_encode(variable, row[variable.column]) for variable in stream.variables]
    return np.array([entry for part in parts for entry in part], np.float32)


def _encode(variable: Variable, text: str) -> list[float]:
    if variable.categories is not None:
        return [float(text == category) for category in variable.categories]
    if text == "":
        return [0.0, 0.0]
    value = number(text)
    if np.isnan(value):
        raise UserError(f"column {variable.column!r}: {text!r} is not a number; leave a missing value empty")
    return [(value - variable.mean) / variable.sd, 1.0]
