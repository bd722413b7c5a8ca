"""Makes docs/errors.md: each code with its explanation and an example from the corpus.

`python -m tests.language.errors_page > docs/errors.md` after any change of a code, a message or the corpus.
"""

from __future__ import annotations

import ast
from pathlib import Path

from dynflow.language import codes
from tests.language.corpus import FILES, FOLDER, expected, problems

_HEAD = """# Errors

<!-- made by tests/language/errors_page.py -->

`dynflow check` finds every fault of a graph at once. Each has a place, a stable code, and says how to mend it:

```text
{first}
```

The caret stands under the text that is meant; lines and columns count from 1, columns in characters. With
`--format json` the same comes for machines, with `--format github` as annotations. Errors make a graph unusable;
warnings do not.
"""


_TELLING = {
    *("condition_unknown_port", "when_with_colon", "condition_literal", "condition_enum", "reference_inside_text"),
    *("timeout_without_unit", "yes_is_text", "unknown_key_in_model", "option_missing", "edge_unknown_node"),
    *("condition_call", "condition_c_operators", "condition_bare_name", "subgraph_missing", "param_reference"),
    *("router_bands_count", "timeout_reference", "race_of_one", "cycle", "no_answer_after_failure", "tag_python"),
}
"""Examples to show where several files have the same code."""


def page() -> str:
    """The page's text."""
    examples: dict[str, str] = {}
    for file in sorted(FILES, key=_telling):
        for problem in problems(file):
            shown = problem.render().removeprefix("broken/").replace(f"{FOLDER}/", "").rstrip()
            if problem.code not in examples and len(shown) < 600:
                examples[problem.code] = shown
    parts = [_HEAD.format(first=examples["unknown_port"])]
    for title, names in _sections().items():
        parts.append(f"## {title}\n")
        for name in names:
            parts.append(f"### `{name}`\n\n{codes.CODES[name]}\n")
            if name in examples:
                parts.append(f"```text\n{examples[name]}\n```\n")
    return "\n".join(parts)


def _telling(file: Path) -> tuple[bool, int, str]:
    return file.stem not in _TELLING, len(expected(file)), file.name


def _sections() -> dict[str, list[str]]:
    """The codes under the comments that part them in codes.py."""
    sections: dict[str, list[str]] = {}
    title = ""
    for line in Path(codes.__file__).read_text().splitlines():
        if line.startswith("    # "):
            title = line.removeprefix("    # ")
        elif line.startswith('    "') and '": ' in line:
            name = ast.literal_eval(line.strip().split(": ")[0])
            if name in codes.CODES:
                sections.setdefault(title, []).append(name)
    return sections


if __name__ == "__main__":
    print(page(), end="")
