"""`speculative_generator`: a chat whose model checks cheap drafts of its own words, where that is quicker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar
from uuid import uuid4

from pydantic import Field

from dynflow.errors import ArtefactError
from dynflow.language.types import PortType, integer
from dynflow.models.settings import ModelSettings
from dynflow.node import BuildScope, Call, Finding, NamesModel, Output
from dynflow.nodes.chat import Chat
from dynflow.speculation.asked import LONGEST, Asked, Drafter
from dynflow.speculation.draft_head.artefact import describe
from dynflow.speculation.statistics import SPECULATION_KEY, Speculation

_DRAFTERS: Mapping[str, frozenset[str]] = {
    "llama_cpp": frozenset({"prompt_lookup", "ngram_cache", "draft_model"}),
    "transformers": frozenset({"prompt_lookup", "ngram_cache", "draft_model", "draft_head", "early_exit"}),
    "ollama": frozenset(),
    "litellm": frozenset(),
}
"""Providers whose models may speculate, and what they can be told to draft by; servers choose themselves."""


class SpeculativeGenerator(Chat):
    """Ask a chat model that drafts: the answer is the model's own, in fewer passes."""

    type = "speculative_generator"
    summary = "a chat whose model checks drafts of its own words where that is quicker: the same answer, sooner"

    class Options(Chat.Options):
        """What to ask, of which model, and what it may draft by."""

        static: ClassVar[frozenset[str]] = frozenset({*Chat.Options.static, "draft_head", "drafters", "max_draft"})

        draft: Annotated[str | None, NamesModel()] = Field(
            default=None, description="an entry of `models:`, smaller than `model`, that drafts for it"
        )
        draft_head: str | None = Field(
            default=None, description="folder of a draft head that `dynflow train draft` made for `model`"
        )
        drafters: list[Drafter] | None = Field(
            default=None,
            min_length=1,
            description="what may draft; default: lookup, and the draft model and head that are given",
        )
        max_draft: int | None = Field(
            default=None, gt=0, le=LONGEST, description="most tokens of one draft; default: the engine's own choice"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        **Chat.ports,
        "drafted": integer("tokens that were drafted; null where the server does not tell"),
        "accepted": integer("drafted tokens that the model accepted"),
        "passes": integer("forward passes that the model took to write the answer"),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        return {**cls.ports, **super().output_ports(options, scope)}

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        yield from super().check(options, scope)
        settings = scope.spec.models.get(options.model)
        if settings is not None:
            yield from _faults(options, settings, scope.spec.models)
            yield from _head_faults(options, settings.provider, scope.file.parent if scope.file else scope.base)

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._flow = f"{node_id} {uuid4().hex}"  # nobody else's requests teach this node, or have its n-grams

    def warm_up(self) -> None:
        super().warm_up()
        settings = self.resources.model_settings(self.options.model)
        if settings.provider in ("llama_cpp", "transformers") and not settings.references():
            model: Any = self.resources.chat_model(self.options.model)
            model.warm_up_speculation(self._asked())

    def call_options(self) -> Mapping[str, Any]:
        asked = self._asked().as_dict()
        match self.resources.model_settings(self.options.model).provider:
            case "ollama":
                return {"draft_num_predict": asked["most"]} if "most" in asked else {}
            case "litellm":
                return {}
        return {SPECULATION_KEY: asked}

    def finish(self, call: Call, result: Any) -> Output:
        output = super().finish(call, result)
        told = output.usage.speculation if output.usage is not None else None
        output.ports = {
            **output.ports,
            "drafted": told and told.drafted,
            "accepted": told and told.accepted,
            "passes": told and told.passes,
        }
        output.notes = (*output.notes, *_notes(told))
        return output

    def _asked(self) -> Asked:
        options = self.options
        drafters = None if options.drafters is None else tuple(options.drafters)
        draft = revision = None
        if options.draft is not None:
            model: Any = self.resources.chat_model(options.draft)
            draft, revision = model.settings.model, model.settings.revision
        return Asked(drafters, options.max_draft, draft, revision, options.draft_head, self._flow)


def _notes(told: Speculation | None) -> Iterable[str]:
    """What a trace says of an answer's speculation."""
    if told is None:
        yield "the model's server tells nothing of speculation"
        return
    sped = told.speed_up if told.drafted else None
    yield told.phrase() + ("" if sped is None else f", about {sped:.1f} times as fast as without")
    if told.fallback is not None:
        yield told.fallback


def _head_faults(options: Any, provider: str, base: Path | None) -> Iterable[Finding]:
    """What a draft head cannot be."""
    asked = options.drafters is not None and "draft_head" in options.drafters
    if options.draft_head is None:
        if asked:
            yield Finding("exclusive_options", "the drafter draft_head needs `draft_head`, a folder", ("drafters",))
        return
    if options.drafters is not None and not asked:
        yield Finding("exclusive_options", "`draft_head` is given, and `drafters` has no draft_head", ("draft_head",))
    elif "draft_head" not in _DRAFTERS.get(provider, ()):
        yield Finding("bad_value", f"a model of {provider} takes no draft head from here", ("draft_head",))
    else:
        try:
            describe(options.draft_head, base)
        except ArtefactError as error:
            yield Finding("bad_value", str(error), ("draft_head",))


def _faults(options: Any, settings: ModelSettings, models: Mapping[str, ModelSettings]) -> Iterable[Finding]:
    """What in a node's options cannot be: a provider that does not speculate, a draft that does not fit."""
    possible = _DRAFTERS.get(settings.provider)
    if possible is None:
        text = (
            f"the model {options.model!r} cannot be told to speculate: its provider is {settings.provider}, "
            f"and {', '.join(_DRAFTERS)} can; `type: chat` takes what its server does by itself"
        )
        yield Finding("bad_value", text, ("model",))
        return
    if options.max_draft is not None and settings.provider == "litellm":
        yield Finding("bad_value", "a server that litellm reaches drafts by its own settings alone", ("max_draft",))
    for position, drafter in enumerate(options.drafters or ()):
        if drafter not in possible:
            words = f"has no drafter {drafter!r}" + (f"; it has {', '.join(sorted(possible))}" if possible else "")
            yield Finding("bad_value", f"the provider {settings.provider} {words}", ("drafters", position))
    if options.draft is None:
        if "draft_model" in (options.drafters or ()):
            yield Finding(
                "exclusive_options", "the drafter draft_model needs `draft`, an entry of `models:`", ("drafters",)
            )
        return
    draft = models.get(options.draft)
    if options.drafters is not None and "draft_model" not in options.drafters:
        yield Finding("exclusive_options", "`draft` is given, and `drafters` has no draft_model", ("draft",))
    elif "draft_model" not in possible:
        yield Finding("bad_value", f"a model of {settings.provider} takes no draft model from here", ("draft",))
    elif draft is not None and draft.provider != settings.provider:
        text = f"a draft must be of the model's provider, {settings.provider}; {options.draft!r} is of {draft.provider}"
        yield Finding("bad_value", text, ("draft",))
    elif draft is not None and (draft.model, draft.revision) == (settings.model, settings.revision):
        text = f"a model cannot draft for itself: {options.draft!r} is {options.model!r}; name a smaller one"
        yield Finding("bad_value", text, ("draft",))
