"""Train a draft head for a model on its own text: what `dynflow train draft` does."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from dynflow.errors import ArtefactError, InputError
from dynflow.hashes import file_hash
from dynflow.learning.checkpoint import Checkpoint
from dynflow.learning.kept import Progress, code_digest
from dynflow.learning.labelled import read_texts
from dynflow.learning.out import try_out
from dynflow.models.settings import ModelSettings
from dynflow.models.transformers import TransformersChat
from dynflow.speculation.draft_head import artefact, network
from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights
from dynflow.speculation.draft_head.training import fitting
from dynflow.speculation.draft_head.training.card import PICTURE, draw, render_card
from dynflow.speculation.draft_head.training.figures import Figures, judge
from dynflow.speculation.draft_head.training.fitting import Fit, fit
from dynflow.speculation.draft_head.training.texts import Texts, collect
from dynflow.speculation.draft_head.training.writing import Answer
from dynflow.speculation.draft_model import cache_fault

FEWEST_ANSWERS = 32


@dataclass(frozen=True)
class Head:
    """Shape of a head: width of its gated layer, and how many tokens it can draft."""

    inner: int = 1024
    vocabulary: int = 8192


@dataclass(frozen=True)
class Report:
    """What a training made: answers and tokens that it learnt from, figures, and the artefact's size in bytes."""

    out: Path
    answers: int
    tokens: int
    figures: Figures
    size: int


def train(
    settings: ModelSettings,
    out: Path,
    *,
    data: Sequence[str | Path] = (),
    text_column: str | None = None,
    texts: Texts | None = None,
    head: Head | None = None,
    fitted: Fit | None = None,
    command: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Train a head for a model of the provider `transformers`, and write an artefact into the folder `out`.

    `data` are prompts that the model answers, as `read_texts` reads them; none: it draws them itself. `command` is
    what the card tells. A run that was killed goes on where it was. Raises InputError for data that cannot be used, a
    folder that cannot be written and a training that diverges; MissingModel or ArtefactError for a model that cannot
    be used.
    """
    shape, how = head or Head(), fitted or Fit()
    prompts = tuple(dict.fromkeys(row.text for source in data for row in read_texts(source, text_column)))
    asked = Texts(**{**asdict(texts or Texts()), "prompts": prompts})
    if asked.answers < FEWEST_ANSWERS:
        raise InputError(f"{asked.answers} answers are too few to learn from; give at least {FEWEST_ANSWERS}")
    if len(prompts) == 1:
        raise InputError("1 prompt is too few to learn from, as others are held out: give more with --data")
    try_out(out)
    tokenizer, model = TransformersChat(settings=settings).loaded()
    if (fault := cache_fault(model)) is not None:
        raise ArtefactError(f"{settings.model} cannot speculate: {fault}")
    if asked.tokens >= (positions := model.config.max_position_embeddings):
        raise InputError(
            f"answers of {asked.tokens} tokens leave no room for a prompt in the {positions} that {settings.model} "
            "reads: give fewer with --tokens"
        )
    work, digest = out / ".training", artefact.fingerprint(model)
    answers = collect(model, tokenizer, asked, work, digest, progress)
    told = [(row, answer) for row, answer in enumerate(answers) if len(answer.tokens) > 1]  # the others teach nothing
    learnt = [answer for row, answer in told if not asked.held_out(row)]
    held_out = [answer for row, answer in told if asked.held_out(row)]
    if not learnt or not held_out:
        raise InputError(f"{settings.model} says nothing to these prompts: give others with --data")
    vocabulary = frequent(learnt, shape.vocabulary, model.get_output_embeddings().weight.shape[0])
    weights = TargetWeights(model, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        made = HeadNetwork(model.get_input_embeddings().weight.shape[1], shape.inner)
    parts = [digest, asdict(asked), asdict(shape), asdict(how), str(model.dtype), code_digest(fitting, network)]
    checkpoint = Checkpoint(work, hashlib.sha256(json.dumps(parts).encode()).hexdigest())
    fit(made, weights, learnt, how, checkpoint, progress)
    figures = judge(made.half().float(), weights, held_out)  # as it will be kept

    counted = sum(len(answer.tokens) for answer in learnt)
    recipe = {**asdict(shape), "most_tokens": asked.tokens, "texts_seed": asked.seed, **how.as_dict()}
    files = {Path(source).name: file_hash(Path(source)) for source in data if Path(source).is_file()}
    card = render_card(
        settings.model,
        figures,
        sizes={
            "inner": shape.inner,
            "vocabulary": len(vocabulary),
            "weights": sum(weight.numel() for weight in made.parameters()),
            "answers": len(learnt),
            "tokens": counted,
        },
        prompts=f"{len(prompts):,} prompts of {', '.join(map(str, data))}"
        if prompts
        else "prompts that it drew itself",
        recipe=recipe,
        sources={f"some weights of {settings.model}": digest, **files},
        command=command,
    )
    size = artefact.write(
        out,
        made,
        vocabulary,
        {"README.md": card, PICTURE: draw(figures)},
        target=settings.model,
        target_sha256=digest,
        training={
            "command": command,
            "recipe": recipe,
            "data": files,
            "answers": len(learnt),
            "tokens": counted,
            "figures": asdict(figures),
        },
    )
    shutil.rmtree(work, ignore_errors=True)
    return Report(out, len(learnt), counted, figures, size)


def frequent(answers: Sequence[Answer], size: int, tokens: int) -> Tensor:
    """The ids of the most frequent tokens, in their order, filled up with the lowest, which tokenizers learnt first."""
    counts: Mapping[int, int] = Counter(token for answer in answers for token in answer.tokens.tolist())
    chosen = dict.fromkeys(sorted(counts, key=lambda token: (-counts[token], token))[:size])
    for token in range(tokens):
        if len(chosen) >= size:
            break
        chosen[token] = None
    return torch.tensor(sorted(chosen))
