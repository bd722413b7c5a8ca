"""Node: what every node type is made of, and the registry of types.

A type is a class with typed `Options`, declared `ports` and a `run`. It is found through the entry-point group
`dynflow.nodes`; built-ins are registered there like anyone's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor

from dynflow.language.options import Options
from dynflow.language.references import Reference
from dynflow.language.spec import GraphSpec, ParamBody, Role
from dynflow.language.types import PortType

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from dynflow.billing import Charge
    from dynflow.calibration.rules import ContractRule, StopRule
    from dynflow.flow import Flow
    from dynflow.ledger import Usage
    from dynflow.models.settings import ModelSettings
    from dynflow.prompt_size import PromptSize
    from dynflow.request import Request
    from dynflow.trace import Attempt
    from dynflow.walk import State

ENTRY_POINT_GROUP = "dynflow.nodes"


@dataclass(frozen=True, slots=True)
class NamesModel:
    """Marks an option whose value is an entry of `models:`."""


@dataclass(frozen=True, slots=True)
class NamesNodes:
    """Marks an option whose value is one node id or a list of them."""

    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Takes:
    """Marks which kinds of port a reference in an option may point to."""

    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InnerFlow:
    """The flow inside a node, and what the node hands it."""

    flow: Flow
    values: Mapping[str, Any]
    """Its params that the node sets: a literal or a reference."""
    request: Reference | None = None
    """Its request; None: the node's own."""


AnswerType = type[Any]
"""The Python type of an answer's value."""
ModelName = Annotated[str, NamesModel()]
AnswerNames = Annotated[list[str], NamesNodes(role="answer")]


class NodeOptions(Options):
    """Base of a node type's own options. The common ones (timeout, buffer, role…) are the engine's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a node type's own check has to say of its options: a code, words, and the option's path."""

    code: str
    text: str
    path: tuple[str | int, ...] = ()
    severity: str = "error"
    key: bool = False
    """Whether the key at the path is meant, not its value."""


class BuildScope(Protocol):
    """What a node type may know of its graph while that is being checked."""

    node_id: str
    spec: GraphSpec
    file: Path | None
    """The graph's file, or None where it came as text."""
    base: Path | None
    """The folder that `uses:` paths must stay below."""
    runnables: Mapping[str, Any] | None
    """The host's runnables; None while checking without the host."""
    calibrating: bool
    """Whether it is checked in order to be calibrated: a promise that was not yet is no fault then."""

    def ports_of(self, node_id: str) -> Mapping[str, PortType]:
        """Ports of another node, without those that every node has."""
        ...

    def type_of(self, reference: Reference) -> PortType:
        """Type of what a reference points to."""
        ...

    def subgraph(self, uses: str) -> Any:
        """Another graph file, loaded; a `GraphError` where it is wrong."""
        ...


class Resources(Protocol):
    """What a node may use at run time: models by name, and the host's runnables."""

    def chat_model(self, name: str) -> BaseChatModel:
        """The model, made on first use. Raises `MissingEnvironment`, `MissingDependency`, `MissingModel`."""
        ...

    def model_settings(self, name: str) -> ModelSettings:
        """The entry of `models:`, references unresolved."""
        ...

    def runnable(self, name: str) -> Runnable[Any, Any]:
        """A runnable that the host handed over."""
        ...

    def handed_over(self, name: str) -> Any:
        """The same as the host gave it: a runnable or a function."""
        ...

    def subflow(self, node_id: str, uses: str) -> Flow:
        """Another graph file as the flow of one node."""
        ...

    def expected_usd(self, node_id: str, request: Request, answer_tokens: int) -> float | None:
        """About what another node would cost to answer in so many tokens; None where a price is unknown."""
        ...

    def why_closed(self, node_id: str, request: Request) -> str:
        """Why a request cannot go to a node that is closed for it, in words."""
        ...

    @property
    def folder(self) -> Path | None:
        """The graph file's folder, which relative paths count from."""
        ...


@dataclass(frozen=True, slots=True)
class Shifted:
    """A number that a node compares (`Node.compared`), and what it adds to it first."""

    number: Any
    by: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What a node carries from one request of a conversation to the next."""

    key: str
    """The key of `config["configurable"]` that names the conversation."""
    port: str
    """What the node gave there last, a text or number, is all that is carried; a failure changes nothing."""


@dataclass(slots=True)
class Output:
    """What one run of a node gave: port values, an answer's value, what it used, and words for the trace."""

    ports: Mapping[str, Any] = field(default_factory=dict)
    value: Any = None
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    degraded: bool = False
    """It succeeded, but on a degraded path of its own (a sub-graph)."""


class Cancelled(Exception):
    """Raised inside a node whose run was called off: it timed out, or it lost a race."""


class Member(Protocol):
    """A member of a group, ready to run on the group's request."""

    id: str

    def run(self) -> Mapping[str, Any] | None:
        """Run it; its ports, or None where it failed (its failure is then on record)."""
        ...

    async def arun(self) -> Mapping[str, Any] | None:
        """The same, async; cancelling the task calls the member off."""
        ...

    @property
    def output(self) -> Output | None:
        """What it gave; None until it succeeded."""
        ...

    @property
    def state(self) -> State | None:
        """How it ended; None until it did."""
        ...

    def call_off(self) -> None:
        """End a synchronous run at its next chunk; it counts as not run."""
        ...


@dataclass(slots=True)
class Call:
    """One visit of one node by one request."""

    request: Request
    options: Any
    config: RunnableConfig
    called_off: Callable[[], bool]
    """Whether nobody waits for this run any more; checked between chunks."""
    seconds_left: Callable[[], float]
    """Seconds until the node's timeout or the request's deadline; infinite without one."""
    charge: Callable[[str, PromptSize, int | None], Charge]
    """`charge(model, prompt, max tokens)` reserves what one attempt at a model can cost at most.

    Raises `BudgetExceeded`."""
    attempts: list[Attempt] = field(default_factory=list)
    """What the trace tells of each attempt at a model."""
    members: Mapping[str, Member] = field(default_factory=dict)
    configurable: Mapping[str, Any] = field(default_factory=dict)
    """`config["configurable"]` as the caller gave it."""
    closed: frozenset[str] = frozenset()
    """Nodes that the request cannot go to: a model lacks what it needs."""
    call_options: Mapping[str, Any] = field(default_factory=dict)
    """What the caller of the chat face asks of the model that answers (`tools`, `stop`…); empty for a signal."""
    remembered: Any = None
    """In a replay: what the node gave last in this conversation, as `Node.remembers` has it; None: nothing."""
    nest: Callable[[], Any] = lambda: None
    """What an inner flow needs to share this request's deadline, budget and trace."""
    interruptible: bool = False
    """Whether the run can be called off, so that long synchronous work should come in chunks."""
    id: str | None = None
    """What the request's record is known by; None where none is kept, as in a replay."""

    def check(self) -> None:
        """Raise where the run was called off."""
        if self.called_off():
            raise Cancelled


class Node(ABC):
    """One node of a graph. Constructors are cheap; `warm_up` loads, `close` frees."""

    type: ClassVar[str]
    role: ClassVar[Role] = "signal"
    summary: ClassVar[str] = ""
    extra: ClassVar[str | None] = None
    """The pip extra that the type needs, if any."""
    ports: ClassVar[Mapping[str, PortType]] = {}
    batches: ClassVar[bool] = False
    """Whether `run_batch` is better than one by one."""
    group: ClassVar[bool] = False
    """Whether the node runs members, named by an option of type `NamesNodes`."""
    can_answer: ClassVar[bool] = True
    """False for a type that measures or arranges only: it has no value that could be the result."""
    instant: ClassVar[bool] = False
    """Whether it only rearranges what is there: it never waits, and may run when the request's time is up."""
    hears: ClassVar[bool] = False
    """Whether it is made for sound: then its model hears, whatever the provider's chat models do."""
    all_members_succeed: ClassVar[bool] = False
    """Whether a group's success means that each member succeeded."""

    class Options(NodeOptions):
        """No options."""

    def __init__(self, node_id: str, options: Any, resources: Resources) -> None:
        self.id = node_id
        self.options = options
        self.resources = resources

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        """The ports that a node with these options has."""
        return cls.ports

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        """Faults of these options that their types cannot show."""
        return ()

    @classmethod
    def can_fail(cls, options: Any, scope: BuildScope) -> bool:
        """Whether a node with these options can fail, so that somebody should handle it."""
        return not cls.instant

    @classmethod
    def sees(cls, options: Any) -> bool:
        """Whether it begins with an image of the request: then its model sees, whatever the provider's chats do."""
        return False

    @classmethod
    def streams(cls, options: Any) -> bool:
        """Whether an answer may go out as it is written; False where it is only known when it is whole."""
        return True

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        """The Python type of an answer's value."""
        return object

    def inner_params(self) -> Mapping[str, ParamBody]:
        """Params of a graph inside this node, which callers may set as `<node id>/<param>`."""
        return {}

    def inner(self) -> InnerFlow | None:
        """The flow inside this node, so that a replay can walk it."""
        return None

    def trained_on(self, request: Request) -> bool:
        """Whether its artefact was made from this request, whose outcomes then prove nothing of it."""
        return False

    @property
    def remembers(self) -> Memory | None:
        """How its output depends on earlier requests of a conversation; None: it depends on the request alone."""
        return None

    def compared(self) -> Mapping[str, Sequence[tuple[Any, Any]]]:
        """Options of which nothing but an order matters: for each, the pairs of numbers that it is the order of.

        A number is a literal, a reference, a function of the request, or one of these `Shifted`. A replay then runs
        the node once for each order of each request, not for each value of a param.
        """
        return {}

    def stop_rule(self, params: Mapping[str, Any]) -> StopRule | None:
        """How a param decides where its computation may stop early; None: it has no such param.

        `params` are the values of the graph's."""
        return None

    def contract_rule(self) -> ContractRule | None:
        """The promise that its options state; None: they state none."""
        return None

    def fingerprint(self) -> str | None:
        """What its output depends on beside options and request, so that it may be kept; None: it may not."""
        return None

    def warm_up(self) -> None:
        """Load what the node needs. Called at most once before the first run; safe to call again."""

    def close(self) -> None:
        """Free what `warm_up` loaded."""

    @abstractmethod
    def run(self, call: Call) -> Output:
        """Do the work."""

    async def arun(self, call: Call) -> Output:
        """The same, async; by default in a worker thread."""
        return await run_in_executor(None, self.run, call)

    def stream(self, call: Call) -> Iterator[Any]:
        """Chunks of an answer as they come, then the `Output`; by default the output alone."""
        yield self.run(call)

    async def astream(self, call: Call) -> AsyncIterator[Any]:
        """The same, async."""
        yield await self.arun(call)

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        """Several requests at once, results in order; only used where `batches` is true."""
        raise NotImplementedError

    async def arun_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        """The same, async; by default in a worker thread."""
        return await run_in_executor(None, self.run_batch, calls)


@cache
def _registered() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def node_types() -> tuple[str, ...]:
    """Names of all registered node types."""
    return tuple(sorted(_registered()))


@cache
def node_type(name: str) -> type[Node]:
    """The class of a registered type. Raises `KeyError` where there is none, `ImportError` where it cannot load."""
    loaded = _registered()[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Node)):
        raise ImportError(f"the entry point {name!r} of {ENTRY_POINT_GROUP} is no Node")
    return loaded
