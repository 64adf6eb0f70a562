"""Predicting: a saved model on exams, plain torch, loaded once, one batch in memory at a time.

An exam that cannot be read is named and skipped; the others go on.
"""

from m4oe.predict.exams import Predictor
from m4oe.predict.part import CASE_COLUMNS, CONTRIBUTION_COLUMNS, PREDICTION_COLUMNS, Answer, Part
from m4oe.predict.volumes import VolumePredictor, predictor_of

__all__ = [
    "CASE_COLUMNS",
    "CONTRIBUTION_COLUMNS",
    "PREDICTION_COLUMNS",
    "Answer",
    "Part",
    "Predictor",
    "VolumePredictor",
    "predictor_of",
]
