"""Graders: how good an answer is, 0 to 1, by one interface."""

from dynflow.grading.grader import Answered, Grade, Grader
from dynflow.grading.parse import FORMS, read_grader

__all__ = ["FORMS", "Answered", "Grade", "Grader", "read_grader"]
