"""A run folder as one self-contained HTML page."""

from m4oe.report.page import write_report

__all__ = ["write_report"]
