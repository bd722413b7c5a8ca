from __future__ import annotations

import json
import os

import pytest

BROKEN = """\
version: 1
nodes:
  one: {type: promt, template: "{input}"}
  two: {type: prompt, role: answer, template: "{input}"}
edges:
  - {from: start, to: two}
  - {from: two, to: ende}
"""


def test_a_good_file_gets_one_line(invoke, canned):
    result = invoke("check", canned)
    assert result.exit_code == 0
    assert result.stdout == f"{canned}: ok, 2 nodes; answers: short (live), long (live)\n"


def test_all_faults_of_all_files(invoke, canned, write):
    broken = write("broken.yaml", BROKEN)
    result = invoke("check", broken, canned)
    assert result.exit_code == 1
    assert (
        f"{broken}:3:15: error[unknown_type]: there is no node type 'promt' (did you mean 'prompt'?)" in result.stdout
    )
    assert f"{broken}:7:21: error[unknown_node]" in result.stdout
    assert f"{canned}: ok" in result.stdout


def test_json(invoke, canned, write):
    result = invoke("check", canned, write("broken.yaml", BROKEN), "--format", "json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    good, bad = shown["files"]
    assert shown["ok"] is False
    assert good["ok"] is True
    assert good["answers"] == {"short": {"live": True}, "long": {"live": True}}
    assert good["nodes"] == 2
    assert [problem["code"] for problem in bad["problems"]] == ["unknown_type", "unknown_node"]


def test_github_annotations(invoke, write):
    result = invoke("check", write("broken.yaml", BROKEN), "--format", "github")
    assert result.exit_code == 1
    assert all(line.startswith("::error file=") for line in result.stdout.splitlines())


def test_a_warning_is_no_failure(invoke, write):
    result = invoke(
        "check", write("warned.yaml", BROKEN.replace("promt", "prompt").replace("ende", "end") + "x-a: 1\n")
    )
    assert result.exit_code == 1  # `one` is unreachable
    good = "version: 1\nparams: {spare: 1}\n" + BROKEN.replace("version: 1\n", "").replace("ende", "end")
    good = "\n".join(line for line in good.splitlines() if "promt" not in line)
    result = invoke("check", write("spare.yaml", good))
    assert result.exit_code == 0
    assert "warning[unused]" in result.stdout


def test_a_missing_file_is_guessed(invoke, canned):
    result = invoke("check", canned.replace("canned", "caned"))
    assert result.exit_code == 1
    assert "error[no_file]" in result.stdout
    assert "did you mean 'canned.yaml'?" in result.stdout


def test_a_folder_is_no_file(invoke, tmp_path):
    result = invoke("check", str(tmp_path))
    assert result.exit_code == 1
    assert "directory" in result.stdout


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(invoke, canned):
    os.chmod(canned, 0)
    result = invoke("check", canned)
    assert result.exit_code == 1
    assert "Permission denied" in result.stdout


def test_bytes_that_are_no_text(invoke, tmp_path):
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    result = invoke("check", str(tmp_path / "binary.yaml"))
    assert result.exit_code == 1
    assert "error[" in result.stdout


def test_no_file_is_wrong_usage(invoke):
    assert invoke("check").exit_code == 2
