"""Does the answer check hold for another kind of answers? JSON that a small local model extracts from made sentences.

    python benchmarks/json_answers.py [--rows 140] [--out benchmarks/results]

The features of `answer_check` were made on answers to word problems; here they meet answers that they were not made on.
Sentences are generated, so the right object is known, and an answer is good where it is that object and nothing else.
The weak route is SmolLM2-135M; the strong one is taken to be always right, so what is judged is telling good answers
from bad. The shipped head never saw these rows, and no shipped head is trained on them. Compared are the untrained
rules, the shipped head, heads trained on the rows themselves (ten-fold cross-fitted, sentences of one person in one
fold), and a head that was trained on word problems alone and is not kept from judging. Writes `json_answers.jsonl` (the
outcome file), which a later run takes up, and `json_answers.json`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dynflow
from dynflow.calibration.curves import LEVELS, resamples, score_measures
from dynflow.learning.crossfitting import cross_fit, folds_of
from dynflow.nodes.answer_check import artefact
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.estimator import KINDS
from dynflow.nodes.answer_check.reading import json_of
from dynflow.nodes.answer_check.train import FOLDS
from dynflow.nodes.answer_check.verdict import Case, without_estimator

_GRAPH = """
version: 1
inputs:
  free: boolean
models:
  small:
    provider: llama_cpp
    model: embedded/smollm2-135m-instruct
    temperature: 0.4
    seed: 7
    max_tokens: 40
nodes:
  bound:
    type: chat
    model: small
    logprobs: true
    output:
      type: object
      additionalProperties: false
      required: [name, age, city]
      properties:
        name: {type: string, maxLength: 20}
        age: {type: integer}
        city: {type: string, maxLength: 12}
  free:
    type: chat
    model: small
    logprobs: true
edges:
  - {from: start, to: free, when: input.free}
  - {from: start, to: bound}
  - {from: free, to: end}
  - {from: bound, to: end}
"""
_FREE = 4  # every fourth answer is written without a grammar that binds it to JSON
_NAMES = (
    "Ann Lee",
    "Bob Stone",
    "Carla Diaz",
    "Dan Okoye",
    "Eva Berg",
    "Femi Ade",
    "Gita Rao",
    "Hugo Petit",
    "Ines Costa",
    "Jon Vik",
    "Kai Wood",
    "Lena Fuchs",
)
_CITIES = ("Oslo", "Lima", "Cairo", "Perth", "Quito", "Turin", "Osaka", "Dakar", "Leeds", "Hanoi", "Porto", "Tampa")
_JOBS = (
    "baker",
    "nurse",
    "pilot",
    "teacher",
    "plumber",
    "painter",
    "lawyer",
    "farmer",
    "chemist",
    "singer",
    "driver",
    "tailor",
)
_FORMS = (
    "{name}, aged {age}, lives in {city} and works as a {job}.",
    "In {city} a {job} called {name} turned {age} last week.",
    "{name} moved to {city} to work as a {job} at the age of {age}.",
    "At {age}, {name} is the oldest {job} in {city}; the youngest is {other}.",
    "The {job} {name} ({age}) has been in {city} for {other} years.",
)


def questions(count: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Person, question and right answer of each row; the same ones each time."""
    draw = random.Random(0)
    for _ in range(count):
        facts = {
            "name": draw.choice(_NAMES),
            "age": draw.randint(18, 70),
            "city": draw.choice(_CITIES),
            "job": draw.choice(_JOBS),
        }
        text = draw.choice(_FORMS).format(**facts, other=draw.randint(2, 17))
        asked = f"{text}\nGive the name, the age and the city of that person as JSON."
        yield facts["name"], asked, {key: facts[key] for key in ("name", "age", "city")}


def collect(count: int, file: Path) -> list[dict[str, Any]]:
    """The outcome file's rows, those that are missing asked for now."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    flow = dynflow.loads(_GRAPH)
    with file.open("a", encoding="utf-8") as out:
        for number, (person, asked, right) in enumerate(questions(count)):
            if number < len(rows):
                continue
            result = flow.run({"input": asked, "free": number % _FREE == 0})
            text = result.ports["text"]
            weak = {
                "quality": float(json_of(text) == right),
                "response": text,
                "ports": {"confidence": result.ports["confidence"]},
            }
            row = {
                "id": f"json/{person.replace(' ', '_')}/{number}",
                "prompt": asked,
                "outcomes": {"weak": weak, "strong": {"quality": 1.0}},
            }
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            rows.append(row)
    return rows[:count]


def scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How much each way doubts each answer, by name."""
    answers = [row["outcomes"]["weak"] for row in rows]
    cases = [Case(row["prompt"], answer["response"], tuple(CHECKS)) for row, answer in zip(rows, answers, strict=True)]
    quality = np.array([[answer["quality"], 1.0] for answer in answers])
    groups = np.unique([row["id"].split("/")[1] for row in rows], return_inverse=True)[1]
    tokens = np.array([[answer["ports"]["confidence"], np.nan, np.nan] for answer in answers])
    found: dict[str, Any] = {
        "token probability alone": -tokens[:, 0],
        "rules": [-without_estimator(case).confidence for case in cases],
    }
    texts = [case.question for case in cases], [case.answer for case in cases]
    for kind, make in KINDS.items():
        shipped = artefact.load(kind)
        found[f"shipped head, {kind}"] = [-verdict.confidence for verdict in shipped.judge(cases)]
        unbound = artefact.Judge(artefact.SHIPPED / kind, kind, shipped.digest, numbers_only=False)
        found[f"word problems' head, {kind}"] = [-verdict.confidence for verdict in unbound.judge(cases)]
        for name, known in (("", None), (" and token probability", tokens)):
            measured = make().features(*texts, known)
            held_out = np.mean(
                [cross_fit(make, measured, quality, folds_of(groups, FOLDS, seed))[:, 0] for seed in range(10)], axis=0
            )
            found[f"trained here, {kind}{name}"] = -held_out
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=140)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = collect(given.rows, given.out / "json_answers.jsonl")
    weak = np.array([row["outcomes"]["weak"]["quality"] for row in rows])
    drawn = resamples(len(rows), 1000, 0)
    figures = {"rows": len(rows), "good": round(float(weak.mean()), 4), "ways": {}}
    for name, doubt in scores(rows).items():
        value = score_measures(doubt, weak, np.ones(len(weak)))
        low, high = np.nanquantile(score_measures(doubt, weak, np.ones(len(weak)), drawn)[:, 0], [0.025, 0.975])
        told = dict(zip(("apgr", *LEVELS), (round(float(each), 4) for each in value), strict=False))
        figures["ways"][name] = {**told, "apgr_interval": [round(float(low), 4), round(float(high), 4)]}
        print(f"{name:45} APGR {value[0]:.3f} [{low:.3f}, {high:.3f}]  CPT50 {value[1]:.1%}  CPT80 {value[2]:.1%}")
    (given.out / "json_answers.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
