"""An example of each node type in YAML, for `dynflow nodes TYPE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.node import Node

_BUILT_IN = {
    "adaptive_diffusion": """
draw:
  type: adaptive_diffusion
  model: shapes                 # an entry of `models:` with `provider: diffusers`
  steps: 50                     # at most
  converge: {threshold: 0.1}    # stop where the clean image no longer moves
""",
    "answer_check": """
check:
  type: answer_check
  answer: ${draft.answer}       # edges then read check.score, check.confidence, check.passed
""",
    "chat": """
local:
  type: chat
  model: small                  # an entry of `models:`
  system: Answer in one sentence.
  max_tokens: 100
  timeout: 30s
""",
    "difficulty_classifier": """
difficulty:
  type: difficulty_classifier
  on_failure: {score: 1.0}      # without a score, ask the strong model
""",
    "early_exit_classifier": """
tone:
  type: early_exit_classifier
  model: reviews                # an entry of `models:` with `provider: encoder`
  exit: {criterion: entropy, threshold: 0.3}
""",
    "graph": """
inner:
  type: graph
  uses: cascade.yaml            # relative to this file
  with:
    doubt_above: 0.6            # a param of that graph
""",
    "parallel": """
signals:
  type: parallel
  of: [difficulty, topic]       # they run side by side; edges then read difficulty.score, topic.label
""",
    "prompt": """
rewrite:
  type: prompt
  template: "Answer for a child of ten: {question}"
  with:
    question: ${input.text}
""",
    "race": """
first:
  type: race
  of: [local, cloud]            # both are ordinary nodes
  stagger: 2s                   # the cloud starts when two seconds brought no local answer
  accept: len(text) > 20        # ports of the one that finishes
""",
    "router": """
route:
  type: router
  routes: [local, cloud]        # cheapest first; edges compare route.choice
  score: ${difficulty.score}
  bands: [0.5]                  # below 0.5 local, else cloud
""",
    "runnable": """
retrieve:
  type: runnable
  name: search                  # load(path, runnables={"search": my_runnable})
  ports: {documents: list}
""",
    "transcribe": """
transcript:
  type: transcribe
  model: whisper                # an entry of `models:` with `provider: transformers`, such as openai/whisper-large-v3
  draft: assistant              # a smaller one with the same tokenizer, such as distil-whisper/distil-large-v3
""",
}
_PLACEHOLDERS = {"text": "…", "number": "0.5", "integer": "1", "true or false": "true", "duration": "10s"}


def example_of(cls: type[Node]) -> str:
    """The example of a built-in type; of any other one, the options that it requires."""
    if cls.type in _BUILT_IN and cls.__module__.startswith("dynflow.nodes."):
        return _BUILT_IN[cls.type].strip("\n")
    from dynflow.cli.nodes import words_for

    lines = [f"my_{cls.type}:", f"  type: {cls.type}"]
    for name, field in cls.Options.model_fields.items():
        if field.is_required():
            kind = words_for(field.annotation, field.metadata)
            lines.append(f"  {field.alias or name}: {_PLACEHOLDERS.get(kind, f'<{kind}>')}")
    return "\n".join(lines)
