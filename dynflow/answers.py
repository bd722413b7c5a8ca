"""Answers that are not messages."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.load.serializable import Serializable


class Classification(Serializable):
    """A label, how sure the classifier is (0…1, where it knows), and the probability of each label."""

    label: str
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        return ["dynflow", "answers"]

    def __str__(self) -> str:
        return self.label
