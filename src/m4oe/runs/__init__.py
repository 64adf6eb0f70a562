"""Whole paths through the house: train then predict, evaluate, question; a run folder is what they leave.

Everything is written beside and renamed, so that what a run already holds is never half of something.
"""

from m4oe.runs.applying import Evaluated, Outcome, evaluate_run, predict_run
from m4oe.runs.facts import run_cohorts
from m4oe.runs.nnunet import export_nnunet
from m4oe.runs.size import describe_model
from m4oe.runs.training import train_run, withheld_tasks

__all__ = [
    "Evaluated",
    "Outcome",
    "describe_model",
    "evaluate_run",
    "export_nnunet",
    "predict_run",
    "run_cohorts",
    "train_run",
    "withheld_tasks",
]
