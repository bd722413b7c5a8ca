"""The data folder is made from originals of the formats that they have; the very files come out."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.benchmarks.scripts import load_script

prepare_data = load_script("prepare_data")
DATA = Path(__file__).parents[3] / "shared" / "data"
WEAK, STRONG = prepare_data.MODELS.values()


def archive(files: Mapping[str, str]) -> bytes:
    """A zip archive that wraps its files in a folder, as GitHub does."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as opened:
        for name, text in files.items():
            opened.writestr(f"RouteLLM-main/{name}", text)
    return made.getvalue()


def table(rows: list[dict[str, str]]) -> str:
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def graded(prompt: str, weak: bool, strong: bool) -> dict[str, str]:
    return {"prompt": prompt, WEAK: str(weak), STRONG: str(strong)}


RESPONSES = "routellm/evals/mmlu/responses/mmlu_{}.csv"
GSM8K = "routellm/evals/gsm8k/gsm8k_responses.csv"


def routellm() -> dict[str, str]:
    answered = {**graded('Say "two, 2"', False, True), f"{WEAK}_response": " 2\n", f"{STRONG}_response": "two"}
    return {
        RESPONSES.format("virology"): table([graded("third", True, True)]),
        RESPONSES.format("anatomy"): table([graded("first\nA. x\nB. ÿ", True, False), graded("second", False, True)]),
        GSM8K: table([answered]),
        "routellm/evals/mmlu/contaminated_prompts.jsonl": "",
    }


def test_rows_are_counted_over_all_subjects() -> None:
    taken = {"mmlu": prepare_data.bits_of([0, 2]), "gsm8k": prepare_data.bits_of([0])}
    found = {
        name: [json.loads(line) for line in lines] for name, lines in prepare_data.outcomes(archive(routellm()), taken)
    }
    assert [(row["id"], row["prompt"]) for row in found["mmlu"]] == [
        ("mmlu/anatomy/0", "first\nA. x\nB. ÿ"),
        ("mmlu/virology/2", "third"),
    ]
    assert found["mmlu"][0]["outcomes"] == {
        "weak": {"model": WEAK, "quality": 1},
        "strong": {"model": STRONG, "quality": 0},
    }
    (row,) = found["gsm8k"]
    assert row["id"] == "gsm8k/main/0"
    assert row["outcomes"]["weak"] == {"model": WEAK, "quality": 0, "response": " 2\n"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({RESPONSES.format("virology"): table([graded("third", True, True)]).replace("True", "yes")}, "'yes'"),
        ({RESPONSES.format("virology"): "prompt\n"}, "has 2 rows, and row 2 is wanted"),
    ],
)
def test_another_version_is_refused(change: dict[str, str], complaint: str) -> None:
    taken = {"mmlu": prepare_data.bits_of([2]), "gsm8k": "0"}
    with pytest.raises(prepare_data.Unprepared, match=complaint):
        list(prepare_data.outcomes(archive(routellm() | change), taken))


def test_a_damaged_archive_is_refused() -> None:
    with pytest.raises(prepare_data.Unprepared, match="damaged"):
        list(prepare_data.outcomes(b"no zip", {"mmlu": "0", "gsm8k": "0"}))


def test_sentences_lose_the_space_at_their_end() -> None:
    text = "sentence\tlabel\nhide new secretions \t0\ngood\t1\n"
    files = {f"SST-2/{split}.tsv": text for split in ("train", "dev")}
    found = dict(prepare_data.sst2(archive(files)))
    assert found["train"] == [("0", "hide new secretions"), ("1", "good")]
    with pytest.raises(prepare_data.Unprepared, match="line 3"):
        dict(prepare_data.sst2(archive({**files, "SST-2/train.tsv": text.replace("good\t1", "good")})))
    with pytest.raises(prepare_data.Unprepared, match="begins with"):
        dict(prepare_data.sst2(archive({**files, "SST-2/train.tsv": "a\tb\n"})))


def test_rows_as_bits() -> None:
    assert prepare_data.bits_of([0, 1, 5]) == "23"
    assert prepare_data.rows_of("23") == [0, 1, 5]


def test_offline_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(prepare_data.urllib.request, "urlopen", unreachable)
    assert prepare_data.main(["--out", str(tmp_path)]) == 1
    assert "download it elsewhere and put it at" in capsys.readouterr().err


class Answer(io.BytesIO):
    def __init__(self, body: bytes, status: int, length: int) -> None:
        super().__init__(body)
        self.status = status
        self.headers = {"Content-Length": str(length)}


def test_a_download_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, asked = b"0123456789", []

    def serve(request: object, timeout: float) -> Answer:
        start = int((request.get_header("Range") or "bytes=0-")[6:-1])  # type: ignore[attr-defined]
        asked.append(start)
        if len(asked) == 1:
            return Answer(whole[:4], 200, len(whole))
        return Answer(whole[start:], 206, len(whole) - start)

    monkeypatch.setattr(prepare_data.urllib.request, "urlopen", serve)
    file = tmp_path / "originals" / "x.zip"
    with pytest.raises(prepare_data.Unprepared, match="broke off after 4 of 10 bytes"):
        prepare_data.download("https://example.org/x.zip", file)
    assert prepare_data.download("https://example.org/x.zip", file).read_bytes() == whole
    assert asked == [0, 4]
    assert prepare_data.download("https://example.org/x.zip", file) == file  # and asks no more
    assert len(asked) == 2


@pytest.mark.skipif(not (DATA / "routing" / "mmlu.jsonl").is_file(), reason="needs the data that it must make")
def test_the_very_files_come_out(tmp_path: Path) -> None:
    """From originals made of the files themselves, with other rows where theirs are not known."""
    files: dict[str, list[dict[str, str]]] = {}
    for name in ("mmlu", "gsm8k"):
        count, last = 0, ""
        for line in (DATA / "routing" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            read = json.loads(line)
            _, topic, row = read["id"].split("/")
            last = GSM8K if name == "gsm8k" else RESPONSES.format(topic)
            weak, strong = read["outcomes"]["weak"], read["outcomes"]["strong"]
            made = graded(read["prompt"], weak["quality"] == 1, strong["quality"] == 1)
            if name == "gsm8k":
                made |= {f"{WEAK}_response": weak["response"], f"{STRONG}_response": strong["response"]}
            rows = files.setdefault(last, [])
            rows += [dict.fromkeys(made, "other")] * (int(row) - count)
            rows.append(made)
            count = int(row) + 1
    sst2 = {
        f"SST-2/{split}.tsv": "sentence\tlabel\n"
        + "".join(
            "{1} \t{0}\n".format(*line.split("\t", 1))
            for line in (DATA / "sst2" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        )
        for split in ("train", "dev")
    }
    originals = tmp_path / "originals"
    originals.mkdir()
    (originals / "RouteLLM.zip").write_bytes(archive({file: table(rows) for file, rows in files.items()}))
    (originals / "SST-2.zip").write_bytes(archive(sst2))
    prepare_data.prepare(tmp_path)
    for name in ("mmlu", "gsm8k"):
        made = tmp_path / "routing" / f"{name}.jsonl"
        assert made.read_bytes() == (DATA / "routing" / f"{name}.jsonl").read_bytes()
    made = tmp_path / "sst2" / "train.tsv"
    assert made.read_text("utf-8").splitlines() == (DATA / "sst2" / "train.tsv").read_text("utf-8").splitlines()
