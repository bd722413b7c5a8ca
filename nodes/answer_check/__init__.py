"""`answer_check`: judges a given answer, so that a cheap draft can be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from dynflow.answers import text_of
from dynflow.errors import NodeFailed
from dynflow.json_schema import schema_fault, schema_validator
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.types import PortType, boolean, number, record
from dynflow.learning.node import HeadNode
from dynflow.node import BuildScope, Call, Finding, NodeOptions, Output, Takes

if TYPE_CHECKING:
    from dynflow.nodes.answer_check.artefact import Judge, Rules
    from dynflow.nodes.answer_check.verdict import Case, Verdict
    from dynflow.request import Request

_ANSWERS = ("message", "string", "any", "record", "list")


class AnswerCheck(HeadNode["Judge | Rules"]):
    """Judge an answer."""

    type = "answer_check"
    summary = (
        "judges a given answer: how likely it is good, what is wrong with it, and what asking a better model gains"
    )

    class Options(NodeOptions):
        """Which answer, to what question, and what is known of it."""

        static: ClassVar[frozenset[str]] = frozenset({"estimator", "checks", "output"})

        answer: Annotated[Reference, Takes(_ANSWERS)] = Field(
            description="the answer to judge, such as ${draft.answer}"
        )
        question: str | None = Field(default=None, description="what it answers; default: the last user turn")
        estimator: str = Field(
            default="embedding",
            description="`embedding` (MiniLM, features), `surface` (no model), `rules` (no training), or a folder",
        )
        checks: list[str] | None = Field(default=None, description="what to look for; default: everything")
        output: dict[str, Any] | None = Field(default=None, description="a JSON schema that the answer must fit")
        token_confidence: float | None = Field(
            default=None, description="mean token probability, such as ${draft.confidence} of a chat with logprobs"
        )
        samples: list[str | Reference] | None = Field(
            default=None, description="texts of other answers to it: where they agree, it is likelier good"
        )
        judge: Annotated[Reference | None, Takes(("number", "string"))] = Field(
            default=None, description="what a judge says: a number 0…1, or yes or no, such as ${judge.label}"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "confidence": number("calibrated probability, 0…1, that the answer is good"),
        "score": number("0…1: share of the estimator's reference answers that gain less from the strong model"),
        "quality": record(None, "probability of a good answer: `weak` is this one, `strong` another model's"),
        "passed": boolean("whether no check found anything wrong"),
        "reasons": PortType("list", "names of the checks that it failed"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        from dynflow.nodes.answer_check.checks import CHECKS

        for place, name in enumerate(options.checks or ()):
            if name not in CHECKS:
                yield Finding("bad_value", f"there is no check {name!r}{did_you_mean(name, CHECKS)}", ("checks", place))
        evidence = (options.output, options.token_confidence, options.samples, options.judge)
        if options.checks == [] and all(given is None for given in evidence):
            text = "no checks, and nothing else to judge by: name some, or remove `checks`"
            yield Finding("too_few", text, ("checks",))
        sure = options.token_confidence
        if isinstance(sure, int | float) and not 0 <= sure <= 1:
            yield Finding("bad_value", f"a probability is from 0 to 1; {sure:g} is not", ("token_confidence",))
        if options.judge is not None:
            yield from _judge_findings(options.judge, scope.type_of(options.judge))
        if options.output is not None and (fault := schema_fault(options.output)):
            yield Finding("bad_schema", f"`output` is no JSON schema to check with: {fault}", ("output",))
        yield from super().check(options, scope)

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._validator: Any = None

    @classmethod
    def load_head(cls, name_or_path: str) -> Judge | Rules:
        from dynflow.nodes.answer_check.artefact import load

        return load(name_or_path)

    def trained_on(self, request: Request) -> bool:
        return self.head.trained_on(request.text)

    def run(self, call: Call) -> Output:
        return _output(self.head.judge([self._case(call)])[0])

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        cases: list[Case | Exception] = []
        for call in calls:
            try:
                cases.append(self._case(call))
            except NodeFailed as error:
                cases.append(error)
        verdicts = iter(self.head.judge([case for case in cases if not isinstance(case, Exception)]))
        return [case if isinstance(case, Exception) else _output(next(verdicts)) for case in cases]

    def _case(self, call: Call) -> Case:
        from dynflow.nodes.answer_check.checks import CHECKS, fits
        from dynflow.nodes.answer_check.verdict import Case, opinion

        options = call.options
        text = text_of(options.answer)
        judged = None if options.judge is None else opinion(options.judge)
        if options.judge is not None and judged is None:
            raise NodeFailed(f"the judge says neither yes nor no, nor a number from 0 to 1: {options.judge!r:.80}")
        if options.output is not None and self._validator is None:
            self._validator = schema_validator(options.output)
        return Case(
            question=call.request.text if options.question is None else options.question,
            answer=text,
            checks=tuple(CHECKS if options.checks is None else options.checks),
            token_confidence=options.token_confidence,
            samples=tuple(options.samples or ()),
            judged=judged,
            fits=None if self._validator is None else fits(self._validator, options.answer, text),
        )


def _judge_findings(judge: Reference, found: PortType) -> Iterable[Finding]:
    """What of a judge's port no opinion can be read from."""
    from dynflow.nodes.answer_check.verdict import opinion

    for label in found.values or ():
        if opinion(label) is None:
            text = f"the judge may say {label!r}, which is neither yes nor no, nor a number from 0 to 1"
            yield Finding("bad_value", f"{text}: give it other `labels`", ("judge",))
    free = [f"{owner}.{port}" for owner, port in judge.targets if port == "text"]
    if free:
        text = f"`judge` takes a number or a label; {free[0]} is free text: give the judge `labels: [good, bad]`"
        yield Finding("type_mismatch", text, ("judge",))


def _output(verdict: Verdict) -> Output:
    return Output(
        {
            "confidence": verdict.confidence,
            "score": verdict.score,
            "quality": verdict.quality,
            "passed": not verdict.reasons,
            "reasons": verdict.reasons,
        }
    )
