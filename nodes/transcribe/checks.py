"""What `check` finds of a `transcribe`'s options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynflow.errors import DynflowError
from dynflow.language.references import Reference
from dynflow.node import BuildScope, Finding
from dynflow.nodes.transcribe.source import source_of


def findings(options: Any, scope: BuildScope) -> Iterable[Finding]:
    """Faults that the options' types cannot show."""
    folder = scope.file.parent if scope.file is not None else scope.base
    for name in ("model", "draft"):
        entry = getattr(options, name)
        if entry is None:
            continue
        try:
            source_of(scope.spec.models.get(entry), folder)
        except DynflowError as error:
            verb = "transcribes nothing" if name == "model" else "drafts nothing"
            yield Finding("bad_value", f"the model {entry!r} {verb}: {error}", (name,))
    if isinstance(options.audio, str) and not isinstance(options.audio, Reference) and not options.audio.strip():
        text = "`audio` names no file: leave it out for the sound in the last user turn"
        yield Finding("bad_value", text, ("audio",))
    yield from _of_drafts(options, scope)


def _of_drafts(options: Any, scope: BuildScope) -> Iterable[Finding]:
    drafters = options.drafters
    if options.draft is None:
        if "draft_model" in (drafters or ()):
            text = "the drafter draft_model needs `draft`, an entry of `models:`"
            yield Finding("exclusive_options", text, ("drafters",))
        return
    target, draft = scope.spec.models.get(options.model), scope.spec.models.get(options.draft)
    if drafters is not None and "draft_model" not in drafters:
        yield Finding("exclusive_options", "`draft` is given, and `drafters` has no draft_model", ("draft",))
    elif target and draft and (draft.model, draft.revision) == (target.model, target.revision):
        text = f"a model cannot draft for itself: {options.draft!r} is {options.model!r}; name a smaller one"
        yield Finding("bad_value", text, ("draft",))
