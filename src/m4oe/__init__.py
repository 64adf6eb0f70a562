"""m4oe: multi-modal, multi-task medical imaging with mixtures of experts."""

__version__ = "0.1.0"
