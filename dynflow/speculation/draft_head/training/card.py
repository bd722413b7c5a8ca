"""The model card of a trained draft head, and the picture in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynflow.calibration.plots import Axis, Plot, per_cent, plain

if TYPE_CHECKING:
    from dynflow.speculation.draft_head.training.figures import Figures

PICTURE = "acceptance.svg"
_CARD = """\
# Draft head of {target}

Drafts for {target}, and for no other model, from its last hidden state. Written by `dynflow train draft`; do not edit
by hand.

**Made of**: one gated layer ({inner:,} wide, {weights:,} weights) that reads the target's last hidden state and the
embedding of its last token, forecasts the next state, and goes on from its own forecasts. The target's output weights
of its {vocabulary:,} most frequent tokens, which have {covered:.1%} of the tokens held out, tell what a forecast says.

**Trained on** {answers:,} answers of the target's own ({tokens:,} tokens) to {prompts}. Half are greedy, the others
drawn at temperatures 0.6 and 1. The head learns the target's distribution over the draft vocabulary, and its states.

```sh
{command}
```

| recipe | |
|---|---|
{recipe}

| file | SHA-256 |
|---|---|
{sources}

**Figures** on {held_out:,} greedy answers held out, from {places:,} places. How often the target takes a drafted token,
where it took those before it, and how many tokens one of its passes gives, its own among them:

| drafted token | taken | tokens a pass with a draft of so many |
|---|---|---|
{taken}

![How often each token of a draft is taken]({picture})

These count passes, no seconds: what drafts win depends on what a pass over several tokens costs on the machine at hand,
which the controller measures. **Use** it with `draft_head:` of a `speculative_generator`; texts unlike those it was
trained on are drafted worse, and stay the target's own.
"""


def render_card(
    target: str,
    figures: Figures,
    *,
    sizes: Mapping[str, int],
    prompts: str,
    recipe: Mapping[str, Any],
    sources: Mapping[str, str],
    command: str,
) -> str:
    """Markdown. `sizes`: `inner`, `weights`, `vocabulary`, and the `answers` and `tokens` trained on; `prompts` says
    in words what was answered; `sources`: checksums by name."""
    rows = [
        f"| {place} | {share:.1%} | {figures.tokens_a_pass(place):.2f} |"
        for place, share in enumerate(figures.taken, start=1)
    ]
    return _CARD.format(
        target=target,
        covered=figures.covered,
        held_out=figures.answers,
        places=figures.places,
        prompts=prompts,
        command=command,
        recipe="\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in recipe.items()),
        sources="\n".join(f"| {name} | `{digest}` |" for name, digest in sources.items()),
        taken="\n".join(rows),
        picture=PICTURE,
        **sizes,
    )


def draw(figures: Figures) -> str:
    """How often each token of a draft is taken, and how often all up to it are, as a self-contained SVG."""
    plot = Plot(
        "acceptance",
        "How often each token of a draft is taken",
        "One line for a token where those before it were taken, one for it and all before it.",
        Axis(1, max(len(figures.taken), 2), "token of the draft", plain),
        Axis(0, 1, "taken", per_cent),
    )
    whole, chance = [], 1.0
    for share in figures.taken:
        chance *= share
        whole.append(chance)
    lines = {"given those before": (figures.taken, "#1f6feb"), "with all before": (whole, "#d1242f")}
    style, legend = "", ""
    for place, (name, (shares, colour)) in enumerate(lines.items()):
        plot.line(list(enumerate(shares, start=1)), f"line-{place}")
        style += f".line-{place}{{stroke:{colour};fill:none;stroke-width:2}}"
        legend += f'<text x="430" y="{34 + 18 * place}" text-anchor="end" fill="{colour}">{name}</text>'
    return plot.file(style, legend)
