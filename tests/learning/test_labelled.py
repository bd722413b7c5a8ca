"""Labelled texts from files and from a hub."""

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from dynflow.errors import InputError, MissingDependency
from dynflow.learning.labelled import Columns, Labelled, label_names, read_labelled

GOOD = [Labelled("a fine film", "1"), Labelled('the "worst" one, by far', "0")]


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.tsv", 'label\tsentence\n1\ta fine film\n0\tthe "worst" one, by far\n'),
        ("rows.tsv", '\ufefflabel\tsentence\r\n1\ta fine film\r\n0\tthe "worst" one, by far'),
        ("rows.csv", 'id,Text,Label\n7,a fine film,1\n8,"the ""worst"" one, by far",0\n'),
        ("rows.jsonl", '{"text": "a fine film", "label": 1}\n\n{"text": "the \\"worst\\" one, by far", "label": "0"}'),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    rows = read_labelled(path := file(tmp_path, name, text))
    assert rows == GOOD
    lines = [1, 3] if name == "rows.jsonl" else [2, 3]
    assert [(row.source, row.line) for row in rows] == [(str(path), line) for line in lines]


def test_columns_are_named_where_their_names_do_not_say(tmp_path: Path) -> None:
    path = file(tmp_path, "rows.csv", "utterance,mood\nhello,calm\n")
    with pytest.raises(InputError, match=r"--text-column; it has 'utterance', 'mood'"):
        read_labelled(path)
    with pytest.raises(InputError, match="no column 'words'; it has 'utterance', 'mood'"):
        read_labelled(path, Columns(text="words", label="mood"))
    assert read_labelled(path, Columns("utterance", "mood")) == [Labelled("hello", "calm")]


def test_csv_keeps_lines_within_a_field_and_counts_them(tmp_path: Path) -> None:
    path = file(tmp_path, "rows.csv", 'text,label\n"one\ntwo",1\n,0\n')
    with pytest.raises(InputError, match=r"1 of 2 rows cannot be learnt from:\n  line 4: the text is empty"):
        read_labelled(path)
    path.write_text('text,label\n"one\ntwo",1\n')
    assert read_labelled(path) == [Labelled("one\ntwo", "1")]


def test_a_line_ends_at_the_newline_alone(tmp_path: Path) -> None:
    path = file(tmp_path, "rows.jsonl", '{"text": "one\u2028two", "label": "1"}\n')
    assert read_labelled(path) == [Labelled("one\u2028two", "1")]


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        (
            "a.tsv",
            "label\ttext\n1\n1\tx\ty\n\tz\n1\t \n",
            ["2: has 1 columns", "3: has 3", "4: the label is empty", "5: the text is"],
        ),
        ("a.csv", 'text,label\n"a"b,1\nfine,1\n', ["2: is no CSV"]),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n[]\n{"text": 3, "label": 1}\n{"text": "b"}\n{"text": "c", "label": 0.5}\nno\n',
            ["2: is not a JSON object", "3: the text is 3", "4: lacks 'label'", "5: the label is 0.5", "6: is no JSON"],
        ),
    ],
)
def test_bad_rows_are_listed_by_line(tmp_path: Path, name: str, text: str, faults: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        read_labelled(file(tmp_path, name, text))
    for fault in faults:
        assert f"\n  line {fault}" in str(raised.value)


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    path = file(tmp_path, "a.tsv", "label\ttext\n" + "1\t\n" * 25)
    with pytest.raises(InputError, match=r"25 of 25 rows[\s\S]* line 21: [\s\S]*… and 5 more$"):
        read_labelled(path)


def test_a_very_long_field_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "word " * 50_000
    assert read_labelled(file(tmp_path, "a.csv", f"text,label\n{text},1\n"))[0].text == text
    assert csv.field_size_limit() == limit


def test_what_is_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is none of"):
        read_labelled(file(tmp_path, "a.txt", "x"))
    with pytest.raises(InputError, match="has no rows"):
        read_labelled(file(tmp_path, "a.tsv", "text\tlabel\n"))
    with pytest.raises(InputError, match="cannot be read"):
        read_labelled(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="there is no file"):
        read_labelled(tmp_path / "absent.txt")
    (tmp_path / "latin.tsv").write_bytes(b"text\tlabel\ncaf\xe9\t1\n")
    with pytest.raises(InputError, match=r"latin.tsv cannot be read, .*: save it as UTF-8"):
        read_labelled(tmp_path / "latin.tsv")
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):  # with a byte order mark, and without
        (tmp_path / "wide.csv").write_text("text,label\nfine,1\n", encoding=encoding)
        with pytest.raises(InputError, match=r"wide.csv cannot be read, as it is UTF-16: save it as UTF-8"):
            read_labelled(tmp_path / "wide.csv")
    for name in ("a.tsv", "a.csv", "a.jsonl"):
        for nothing in ("", "\n\n"):
            with pytest.raises(InputError, match="is empty"):
                read_labelled(file(tmp_path, name, nothing))
    with pytest.raises(
        InputError, match=r"it has 'a fine film', '1'\. The first line of the file must hold the names of"
    ):
        read_labelled(file(tmp_path, "a.csv", "a fine film,1\na dull one,0\n"))
    with pytest.raises(InputError, match=r"the first line of .*a.csv is no CSV"):
        read_labelled(file(tmp_path, "a.csv", '"text"x,label\nfine,1\n'))


def test_labels_are_ordered_as_numbers_or_by_the_alphabet() -> None:
    assert label_names(Labelled("x", label) for label in ("10", "9", "-1")) == ["-1", "9", "10"]
    assert label_names(Labelled("x", label) for label in ("pos", "neg", "10")) == ["10", "neg", "pos"]


class HubSet(list[Any]):
    """As much of `datasets.Dataset` as is read."""

    column_names: ClassVar = ["sentence", "label"]
    features: ClassVar = {"sentence": SimpleNamespace(), "label": SimpleNamespace(names=["negative", "positive"])}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    asked = []

    def load_dataset(name: str, split: str) -> HubSet:
        asked.append((name, split))
        if name == "owner/absent":
            raise FileNotFoundError("no such data set")
        return HubSet([{"sentence": "a fine film", "label": 1}] + [{"sentence": "x", "label": -1}] * (split == "test"))

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_data_set_of_a_hub(hub: list[tuple[str, str]]) -> None:
    assert read_labelled("owner/films") == [Labelled("a fine film", "positive")]
    assert hub == [("owner/films", "train")]
    with pytest.raises(InputError, match="line 2: the label is empty"):
        read_labelled("owner/films@test")
    with pytest.raises(InputError, match="as a hub's data set it cannot be read: no such data set"):
        read_labelled("owner/absent")


def test_a_hub_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependency, match="pip install datasets"):
        read_labelled("owner/films")
