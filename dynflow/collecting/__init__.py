"""Outcomes from nothing but prompts: every answer node is run on each row of a file, and each answer is graded."""

from dynflow.collecting.collect import Collection, collect_outcomes
from dynflow.collecting.report import CollectionReport

__all__ = ["Collection", "CollectionReport", "collect_outcomes"]
