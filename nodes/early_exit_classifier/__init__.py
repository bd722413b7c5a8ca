"""`early_exit_classifier`: an encoder classifies a text, and easy texts leave it after a few of its layers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NotRequired

from pydantic import ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from dynflow.answers import Classification
from dynflow.errors import ArtefactError, DynflowError, NodeFailed
from dynflow.language.references import Reference
from dynflow.language.spec import ParamSpec, Role
from dynflow.language.types import PortType, boolean, enum, integer, number, record, string
from dynflow.ledger import Usage
from dynflow.node import (
    AnswerType,
    BuildScope,
    Call,
    Cancelled,
    Finding,
    ModelName,
    Node,
    NodeOptions,
    Output,
)
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA, Criterion, LearntCriterion, criterion_of, kind_of

if TYPE_CHECKING:
    from pathlib import Path

    from dynflow.calibration.rules import StopRule
    from dynflow.models.settings import ModelSettings
    from dynflow.nodes.early_exit_classifier.artefact import Described
    from dynflow.nodes.early_exit_classifier.encoding import SharedEncoder
    from dynflow.nodes.early_exit_classifier.model import Classified, EarlyExitModel
    from dynflow.nodes.early_exit_classifier.reading import Tokens
    from dynflow.request import Request

_LOOK = 0.05
"""Seconds between looks at whether anybody still waits, while the model is busy with other requests."""
_DISAGREES = boolean("of an audited text: whether the whole model says another label; null of others")


class Exit(TypedDict):
    """When a text may leave: a criterion, and how sure is sure enough."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)  # type: ignore[misc]

    criterion: Annotated[str, Field(description=f"one of {', '.join(CRITERIA)}")]
    threshold: Annotated[FiniteFloat | Reference, Field(description="how sure is sure enough, in the criterion's unit")]
    patience: NotRequired[
        Annotated[int | Reference, Field(description="of patience_and_confidence: exits in a row that must be sure")]
    ]
    settings: NotRequired[
        Annotated[
            dict[str, bool | int | FiniteFloat | str],
            Field(description="of a criterion that another package brings: what it takes besides"),
        ]
    ]


class EarlyExitClassifier(Node):
    """Classify a text in as few layers as it needs."""

    type = "early_exit_classifier"
    role: ClassVar[Role] = "answer"
    summary = "classifies a text with an encoder, which easy texts leave after a few of its layers"
    extra = "transformers"
    batches: ClassVar[bool] = True

    class Options(NodeOptions):
        """Which model, when a text may leave it, and what text."""

        model: ModelName = Field(
            description="an entry of `models:` whose provider is `encoder`: embedded/<name>, or a trained folder"
        )
        exit: Exit | None = Field(
            default=None,
            description="`criterion` and `threshold`: when a text is sure enough to leave; default: after all layers",
        )
        text: str | None = Field(default=None, description="what to classify; default: the last user turn")
        audit: float = Field(
            default=0.0, ge=0, le=1, description="share of the requests, drawn by their ids, that run whole beside it"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "label": string("the likeliest label"),
        "probabilities": record(None, "probability of each label, by label, 0…1"),
        "confidence": number("probability of the label, 0…1, at the exit that it left by"),
        "layer": integer("layers that it took"),
        "layers": integer("layers that the whole encoder has"),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        try:
            described = _described(scope.spec.models.get(options.model), _folder(scope))
        except DynflowError:  # `check` tells of it
            return cls.ports
        labels = described.facts.labels
        audited = {"disagrees": _DISAGREES} if options.audit else {}
        each = {label: number(f"probability of {label!r}, 0…1") for label in labels}
        return {
            **cls.ports,
            "label": enum(labels, "the likeliest label"),
            "probabilities": record(each, "probability of each label, 0…1"),
            **audited,
        }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        settings = scope.spec.models.get(options.model)
        learnt: Mapping[str, Mapping[str, Any]] | None = None
        if settings is not None:
            try:
                learnt = _described(settings, _folder(scope)).facts.criteria
            except DynflowError as error:
                yield Finding("bad_value", f"the model {options.model!r} classifies nothing: {error}", ("model",))
        if isinstance(options.text, str) and not options.text.strip():
            text = "there is nothing to classify: leave `text` out for the last user turn"
            yield Finding("bad_value", text, ("text",))
        if isinstance(options.exit, Reference):
            yield Finding("static_option", "`exit` takes a mapping, whose values may be references", ("exit",))
        elif options.exit is not None:
            yield from _exit_findings(options.exit, scope, learnt)

    @classmethod
    def streams(cls, options: Any) -> bool:
        return False

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return Classification

    @classmethod
    def shared_encoder(cls, name_or_path: str, folder: Path | None = None) -> SharedEncoder:
        """The encoder of a trained model, for estimators of other nodes; cheap. Raises ArtefactError."""
        from dynflow.nodes.early_exit_classifier.artefact import describe
        from dynflow.nodes.early_exit_classifier.encoding import SharedEncoder

        return SharedEncoder(describe(name_or_path, folder))

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._artefact: Described | None = None
        self._model: EarlyExitModel | None = None
        self._hashes: frozenset[int] | None = None
        self._turn = threading.Lock()
        """Held by whoever runs the model: side by side, runs would only contend for the cores."""

    @property
    def _described(self) -> Described:
        if self._artefact is None:
            settings = self.resources.model_settings(self.options.model)
            self._artefact = _described(settings, self.resources.folder)
        return self._artefact

    @property
    def _loaded(self) -> EarlyExitModel:
        model = self._model
        if model is None:
            from dynflow.nodes.early_exit_classifier.artefact import load

            model = self._model = load(self._described)
        return model

    @cached_property
    def _threads(self) -> int:
        """CPU threads for one run: those set, else PyTorch's own number, but no more than the process has cores for."""
        import torch

        from dynflow.models.cores import physical_cores

        settings: ModelSettings = self.resources.model_settings(self.options.model)
        return settings.threads or min(torch.get_num_threads(), physical_cores())

    def trained_on(self, request: Request) -> bool:
        from dynflow.nodes.early_exit_classifier.artefact import row_hash, training_hashes

        if self._hashes is None:
            self._hashes = training_hashes(self._described)
        return row_hash(request.text) in self._hashes

    def fingerprint(self) -> str | None:
        return self._described.digest

    def stop_rule(self, params: Mapping[str, Any]) -> StopRule | None:
        from dynflow.nodes.early_exit_classifier.stop_rule import stop_rule_of

        if self.options.exit is None:
            return None
        return stop_rule_of(self.options.exit, self.options.text, params, self._described, self._lent)

    @contextmanager
    def _lent(self) -> Iterator[EarlyExitModel]:
        """The model, for one caller at a time."""
        with self._turn:
            _use_threads(self._threads)
            yield self._loaded

    def warm_up(self) -> None:
        self._loaded.warm_up()

    def close(self) -> None:
        self._model = None

    def run(self, call: Call) -> Output:
        model, criterion = self._loaded, self._criterion(call)
        tokens = model.reader.read(_text(call))
        [found] = self._classified(model, [tokens], criterion, call.check)
        whole = self._classified(model, [tokens], None, call.check)[0] if self._audits(call) else None
        return self._output(found, tokens, model, whole)

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        model = self._loaded
        results: list[Output | Exception] = [Cancelled()] * len(calls)
        read: dict[int, Tokens] = {}
        alike: dict[str, list[int]] = defaultdict(list)  # params may differ from request to request
        criteria: dict[str, Criterion | None] = {}
        for place, call in enumerate(calls):
            try:
                criterion = self._criterion(call)
                read[place] = model.reader.read(_text(call))
            except DynflowError as error:
                results[place] = error
                continue
            key = json.dumps(call.options.exit, sort_keys=True)
            criteria[key] = criterion
            alike[key].append(place)

        def check() -> None:
            if all(call.called_off() for call in calls):
                raise Cancelled

        whole: dict[int, Classified] = {}
        if audited := [place for place in read if self._audits(calls[place])]:
            found = self._classified(model, [read[place] for place in audited], None, check)
            whole = dict(zip(audited, found, strict=True))
        for key, places in alike.items():
            found = self._classified(model, [read[place] for place in places], criteria[key], check)
            for place, each in zip(places, found, strict=True):
                results[place] = self._output(each, read[place], model, whole.get(place))
        return results

    def _audits(self, call: Call) -> bool:
        """Whether a request runs whole too: its id decides, so that a record tells it again."""
        if not call.options.audit or call.options.exit is None or call.id is None:
            return False
        lot = hashlib.sha256(f"audit {self.id} {call.id}".encode()).digest()
        return bool(int.from_bytes(lot[:8], "big") < call.options.audit * 2**64)

    def _criterion(self, call: Call) -> Criterion | None:
        """Raises `NodeFailed` where what references gave makes no criterion."""
        if call.options.exit is None:
            return None
        try:
            return criterion_of(call.options.exit, self._described.facts.criteria)
        except ValueError as error:
            raise NodeFailed(f"`exit`: {error}") from error

    def _classified(
        self,
        model: EarlyExitModel,
        tokens: Sequence[Tokens],
        criterion: Criterion | None,
        check: Callable[[], None],
    ) -> list[Classified]:
        """What the model says of texts, once it is free. Raises `Cancelled` where nobody waits any more."""
        if threading.current_thread().daemon:
            from dynflow.models.apart import apart

            return apart(lambda: self._in_turn(model, tokens, criterion, check))
        return self._in_turn(model, tokens, criterion, check)

    def _in_turn(
        self,
        model: EarlyExitModel,
        tokens: Sequence[Tokens],
        criterion: Criterion | None,
        check: Callable[[], None],
    ) -> list[Classified]:
        while not self._turn.acquire(timeout=_LOOK):
            check()
        try:
            _use_threads(self._threads)
            return model.classify_tokens(tokens, criterion, check=check)
        finally:
            self._turn.release()

    def _output(self, found: Classified, tokens: Tokens, model: EarlyExitModel, whole: Classified | None) -> Output:
        """`whole` is what an audit found."""
        probabilities = dict(zip(model.labels, found.probabilities, strict=True))
        audited = {"disagrees": whole and whole.label != found.label} if self.options.audit else {}
        return Output(
            {
                "label": found.label,
                "probabilities": probabilities,
                "confidence": found.confidence,
                "layer": found.layer,
                "layers": found.layers,
                **audited,
            },
            Classification(label=found.label, confidence=found.confidence, probabilities=probabilities),
            Usage(self.options.model, input_tokens=len(tokens)),
            found.notes if self.options.exit is None else (*found.notes, _left(found)),
        )


def _left(found: Classified) -> str:
    """Where a text left, in words for the trace."""
    return f"left after {found.layer} of {found.layers} layers"


def _use_threads(count: int) -> None:
    """PyTorch keeps the number by thread, and one that is set does not reach threads that have computed before."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _folder(scope: BuildScope) -> Path | None:
    return scope.file.parent if scope.file is not None else scope.base


def _described(settings: ModelSettings | None, folder: Path | None) -> Described:
    """The artefact that an entry of `models:` names. Raises ArtefactError."""
    from dynflow.nodes.early_exit_classifier.artefact import describe

    if settings is None:
        raise ArtefactError("there is no such entry of `models:`")
    if settings.provider != "encoder":
        raise ArtefactError(f"its provider is {settings.provider}, not encoder")
    for option, *_ in settings.references():
        raise ArtefactError(f"its `{option}` is a reference; write it out: an encoder is loaded as it stands")
    return describe(settings.model, folder)


def _exit_findings(
    given: Mapping[str, Any], scope: BuildScope, learnt: Mapping[str, Mapping[str, Any]] | None
) -> Iterable[Finding]:
    """`learnt` is what the model has for criteria that learn; None: that is not known."""
    for key, value in given.items():
        if isinstance(value, Reference) and not number().accepts(kind := scope.type_of(value)):
            yield Finding("type_mismatch", f"`{key}` takes a number; {value} is {kind}", ("exit", key))
            return
    settled = {key: _default(value, scope.spec.params) for key, value in given.items()}
    settled = {key: value for key, value in settled.items() if not isinstance(value, Reference)}
    settled.setdefault("threshold", 0.0)  # what other references give is only known in a request
    alone = {key: settled[key] for key in ("criterion", "threshold")}
    try:
        chosen = kind_of(given["criterion"])
    except ValueError as error:
        yield Finding("bad_value", str(error), ("exit", "criterion"))
        return
    if issubclass(chosen, LearntCriterion) and learnt is None:
        return
    untaught = issubclass(chosen, LearntCriterion) and chosen.name not in (learnt or {})
    others = "settings" if "settings" in given else "patience"
    for part, fault in ((alone, "criterion" if untaught else "threshold"), (settled, others)):
        try:
            criterion_of(part, learnt)
        except ValueError as error:
            yield Finding("bad_value", str(error), ("exit", fault))
            return


def _default(value: Any, params: Mapping[str, ParamSpec]) -> Any:
    """The default of a param that is referred to."""
    if isinstance(value, Reference) and value.targets[0][0] == "params":
        param = params.get(value.targets[0][1])
        return value if param is None else param.default
    return value


def _text(call: Call) -> str:
    given = call.options.text
    return str(call.request.text) if given is None else str(given)
