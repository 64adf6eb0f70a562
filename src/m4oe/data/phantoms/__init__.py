"""Generated cohorts, written as ordinary files with an ordinary study, and their truth beside them."""

from m4oe.data.phantoms.abdomen import write_abdomen
from m4oe.data.phantoms.breast import write_breast
from m4oe.data.phantoms.retina import write_retina
from m4oe.data.phantoms.truth import Truth, oracle_scores, read_truth

__all__ = ["Truth", "oracle_scores", "read_truth", "write_abdomen", "write_breast", "write_retina"]
