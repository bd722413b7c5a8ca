"""`keywords`: whether a question holds any of some words. A node type of one's own, in one module."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from dynflow import Call, Node, NodeOptions, Output
from dynflow.language.types import PortType, boolean, integer
from dynflow.node import BuildScope, Finding


class Keywords(Node):
    """Look for words; whole ones, in any case."""

    type = "keywords"
    summary = "looks for words in the question"

    class Options(NodeOptions):
        """What `dynflow nodes keywords` and the JSON Schema show; unknown options are refused."""

        words: list[str] = Field(min_length=1, description="words to look for")
        text: str | None = Field(default=None, description="where to look; default: the last user turn")

    # What edges may read: `topic.found`, `topic.count`. Conditions are checked against these types.
    ports: ClassVar[Mapping[str, PortType]] = {
        "found": boolean("whether any of the words is there"),
        "count": integer("how many of the words are there"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        """Faults that the options' types cannot show: `dynflow check` puts them beside the line of the option."""
        for place, word in enumerate(options.words):
            if not word.strip():
                yield Finding("empty_word", "an empty word is in every text", ("words", place))

    def run(self, call: Call) -> Output:
        """Called for each request; `call.options` has its references resolved, `call.request` is what was asked."""
        text = call.request.text if call.options.text is None else call.options.text
        there = {word.lower() for word in re.findall(r"\w+", text)}
        count = sum(word.strip().lower() in there for word in call.options.words)
        return Output({"found": count > 0, "count": count})

    async def arun(self, call: Call) -> Output:
        """Too quick to be worth the worker thread that `Node.arun` would use."""
        return self.run(call)
