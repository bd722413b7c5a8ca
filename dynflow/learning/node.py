"""What node types that judge by a trained head have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dynflow.errors import DynflowError
from dynflow.learning.heads import located
from dynflow.node import BuildScope, Finding, Node


class LoadedHead(Protocol):
    """A head ready to use."""

    @property
    def digest(self) -> str:
        """What its output depends on beside what it judges."""
        ...

    def warm_up(self) -> None:
        """Load all that is needed now."""
        ...


H = TypeVar("H", bound=LoadedHead)


class HeadNode(Node, Generic[H]):
    """Measures by the head that the option `estimator` names."""

    extra = "quickstart"
    can_answer: ClassVar[bool] = False
    batches: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def load_head(cls, name_or_path: str) -> H:
        """The head of this name, or in this folder; cheap. Raises `ArtefactError`."""

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        folder = scope.file.parent if scope.file is not None else scope.base
        try:
            cls.load_head(located(options.estimator, folder))
        except DynflowError as error:
            yield Finding("bad_value", str(error), ("estimator",))

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._head: H | None = None

    @property
    def head(self) -> H:
        """Loaded on first use. Raises `ArtefactError`."""
        if self._head is None:
            self._head = self.load_head(located(self.options.estimator, self.resources.folder))
        return self._head

    def fingerprint(self) -> str | None:
        return self.head.digest

    def warm_up(self) -> None:
        self.head.warm_up()

    def close(self) -> None:
        self._head = None
