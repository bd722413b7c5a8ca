"""Makes the data folder of the benchmarks and training scripts from the public originals.

    python benchmarks/prepare_data.py --out ../shared/data

| made | from |
|---|---|
| `routing/mmlu.jsonl`, `routing/gsm8k.jsonl` | RouteLLM's recorded evaluations, in its GitHub repository (Apache-2.0) |
| `sst2/train.tsv`, `sst2/dev.tsv` | GLUE's SST-2 (Stanford Sentiment Treebank) |

Each download is kept in `OUT/originals` and goes on where it was cut off. `data_rows.json` says which rows of
RouteLLM's files are taken: about half, without those that RouteLLM itself drops as near-duplicates of its training
prompts; the others are for final judgement, so never train or tune on them. What comes out is compared with known
checksums.

Not run end to end where it was written, for want of a network: the reading of the originals' formats is tested on files
made by hand, and on the very files that it must make; the addresses, and GLUE's order of rows, are not.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click

ROUTELLM = "https://codeload.github.com/lm-sys/RouteLLM/zip/refs/heads/main"
SST2 = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
ROWS = Path(__file__).parent / "data_rows.json"
MODELS = {"weak": "mixtral-8x7b-instruct-v0.1", "strong": "gpt-4-1106-preview"}
RESPONSES = {
    "mmlu": r"(?:^|/)routellm/evals/mmlu/responses/mmlu_(?P<topic>\w+)\.csv$",
    "gsm8k": r"(?:^|/)routellm/evals/gsm8k/gsm8k_(?P<topic>)responses\.csv$",
}
SHA256 = {
    "routing/mmlu.jsonl": "27311013ad82ec610ef3163b0e80f90e99dc810d1f83f6fc0573fa76581e541d",
    "routing/gsm8k.jsonl": "2e125f95b3e7b838eb269185747f79cfd4b68e1d24e37e07bfc0447ab48c9238",
}
SORTED_SHA256 = {
    "sst2/train.tsv": "9dae8ec1f3dc8b90dbd72916e988f48fd9ac93cb1072674299879166abb02cc9",
    "sst2/dev.tsv": "8a2dc6dc889a15104a9f72523dcaa3381288f322a925c21bcdfa70bf47a0bf86",
}
"""Of the sorted rows: GLUE's copies differ in their order and line ends."""
_BLOCK = 1 << 16
_SECONDS = 60


class Unprepared(Exception):
    """The data cannot be made; the text says why and what to do."""


def download(address: str, file: Path) -> Path:
    """The file at an address, taken up where an earlier try was cut off. Raises Unprepared."""
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            goes_on = have > 0 and answer.status == 206
            length = int(answer.headers.get("Content-Length") or 0)
            with (
                part.open("ab" if goes_on else "wb") as out,
                click.progressbar(length=length, label=file.name, file=sys.stderr) as bar,
            ):
                got = 0
                while block := answer.read(_BLOCK):
                    out.write(block)
                    got += len(block)
                    bar.update(len(block))
            if length and got < length:
                raise Unprepared(f"{address} broke off after {got:,} of {length:,} bytes: run this again to go on")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            part.replace(file)
            return file
        raise Unprepared(f"{address} answers {error.code} {error.reason}: {_by_hand(file)}") from error
    except OSError as error:
        raise Unprepared(f"{address} cannot be reached ({error}): {_by_hand(file)}") from error
    part.replace(file)
    return file


def _by_hand(file: Path) -> str:
    return f"go online, or download it elsewhere and put it at {file}"


def sst2(archive: bytes) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The (label, sentence) rows of `train` and `dev` in GLUE's archive. Raises Unprepared."""
    for split in ("train", "dev"):
        lines = _member(archive, f"SST-2/{split}.tsv").decode("utf-8").splitlines()
        if not lines or lines[0].split("\t") != ["sentence", "label"]:
            raise Unprepared(f"SST-2/{split}.tsv begins with {lines[:1]}, not with `sentence` and `label`")
        rows = [line.rsplit("\t", 1) for line in lines[1:] if line.strip()]
        wrong = [number for number, row in enumerate(rows, 2) if len(row) != 2 or row[1] not in ("0", "1")]
        if wrong:
            raise Unprepared(f"SST-2/{split}.tsv: line {wrong[0]} is no sentence with a label 0 or 1")
        yield split, [(label, sentence.strip()) for sentence, label in rows]


def outcomes(archive: bytes, taken: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The lines of `mmlu` and `gsm8k` from an archive of RouteLLM's repository. Raises Unprepared.

    `taken`: the rows to take of each, as `rows_of` reads them, counted over all files of responses in their order.
    """
    for name, pattern in RESPONSES.items():
        found: list[tuple[str, Mapping[str, str], str]] = []
        files = {match["topic"] or "main": file for file in names(archive) if (match := re.search(pattern, file))}
        for topic, file in sorted(files.items()):
            text = io.StringIO(_member(archive, file).decode("utf-8"), newline="")
            found += [(topic, row, file) for row in csv.DictReader(text)]
        wanted = rows_of(taken[name])
        if wanted and wanted[-1] >= len(found):
            raise Unprepared(f"RouteLLM's {name} has {len(found):,} rows, and row {wanted[-1]:,} is wanted")
        yield name, [_line(f"{name}/{found[row][0]}/{row}", *found[row][1:]) for row in wanted]


def _line(name: str, row: Mapping[str, str | None], file: str) -> str:
    """One row of an outcome file."""
    found = {}
    for outcome, model in MODELS.items():
        grade = row.get(model)
        if grade not in ("True", "False"):
            raise Unprepared(f"{file}: the grade of {model} is {grade!r}, not True or False")
        found[outcome] = {"model": model, "quality": int(grade == "True")}
        if f"{model}_response" in row:
            found[outcome]["response"] = row[f"{model}_response"] or ""
    return json.dumps({"id": name, "prompt": row["prompt"], "outcomes": found}, ensure_ascii=False)


def rows_of(bits: str) -> list[int]:
    """Row numbers from 0 of a hexadecimal number whose lowest bit is row 0."""
    number = int(bits, 16)
    return [row for row in range(number.bit_length()) if number >> row & 1]


def bits_of(rows: Iterable[int]) -> str:
    """The opposite of `rows_of`."""
    return f"{sum(1 << row for row in rows):x}"


def names(archive: bytes) -> list[str]:
    """The files in a zip archive. Raises Unprepared."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return opened.namelist()
    except zipfile.BadZipFile as error:
        raise Unprepared(f"an archive is damaged ({error}): delete it from `originals` and run this again") from error


def _member(archive: bytes, name: str) -> bytes:
    """A file in a zip archive, whatever folder the archive wraps it in."""
    found = [each for each in names(archive) if each == name or each.endswith(f"/{name}")]
    if not found:
        raise Unprepared(f"the archive has no {name}: it is another version")
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(found[0])


def sorted_digest(rows: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of rows, whatever their order."""
    return hashlib.sha256("\n".join(sorted("\t".join(row) for row in rows)).encode()).hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8"))
    print(f"{file}: {text.count(chr(10)):,} lines")


def prepare(out: Path) -> None:
    """Download what is missing, and write all four files. Raises Unprepared; a file that is wrong is not written."""
    originals = out / "originals"
    taken = json.loads(ROWS.read_text(encoding="utf-8"))
    for name, lines in outcomes(download(ROUTELLM, originals / "RouteLLM.zip").read_bytes(), taken):
        text = "".join(f"{line}\n" for line in lines)
        _check(f"routing/{name}.jsonl", hashlib.sha256(text.encode()).hexdigest(), SHA256)
        _write(out / "routing" / f"{name}.jsonl", text)
    for split, rows in sst2(download(SST2, originals / "SST-2.zip").read_bytes()):
        _check(f"sst2/{split}.tsv", sorted_digest(rows), SORTED_SHA256)
        _write(out / "sst2" / f"{split}.tsv", "".join(f"{a}\t{b}\n" for a, b in [("label", "sentence"), *rows]))


def _check(name: str, digest: str, known: Mapping[str, str]) -> None:
    if digest != known[name]:
        raise Unprepared(f"{name} would have the SHA-256 {digest}, not {known[name]}: the original has changed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the data, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    try:
        prepare(parser.parse_args(arguments).out)
    except (Unprepared, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
