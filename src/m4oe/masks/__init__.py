"""Masks: from a network's scores to labels on the input's own grid, to files that viewers read, and to their scores."""

from m4oe.masks.files import MaskFolder, mask_name, write_mask
from m4oe.masks.labels import Mask, label_set, largest_components, mask_of, true_mask

__all__ = [
    "Mask",
    "MaskFolder",
    "label_set",
    "largest_components",
    "mask_name",
    "mask_of",
    "true_mask",
    "write_mask",
]
