"""Baselines and ablations on the same splits, and runs beside each other: who is better, by how much, how surely."""

from m4oe.compare.comparing import compare_runs, compare_studies
from m4oe.compare.comparison import Comparison, load_comparison
from m4oe.compare.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Comparison", "Variant", "compare_runs", "compare_studies", "load_comparison"]
