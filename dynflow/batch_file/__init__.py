"""Batches from file to file: rows are read one at a time, walked side by side, and written as they finish."""

from dynflow.batch_file.report import Report
from dynflow.batch_file.runner import BatchRun

__all__ = ["BatchRun", "Report"]
