"""m4oe: multi-modal, multi-task medical imaging with mixtures of experts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m4oe.predict import Predictor, VolumePredictor

__version__ = "0.1.0"
__all__ = ["load"]


def load(run: Path | str, device: str = "cpu") -> Predictor | VolumePredictor:
    """A trained model, ready: load("run").predict({"left_mlo": "a.png"}). device: auto, cpu, cuda or mps.

    Raises UserError for a folder without a model, or with a damaged one.
    """
    from m4oe.artifact import load_artifact
    from m4oe.device import resolve_device
    from m4oe.predict import predictor_of

    return predictor_of(load_artifact(Path(run)), resolve_device(device))
