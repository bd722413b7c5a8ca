"""Texts made to break a reader: each must give a `GraphError` or a checked graph, fast and small."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

LIMIT = 256 * 1024 - 200
"""Bytes of a text that is just within the limit."""
MODELS = "version: 1\nmodels: {m: {provider: host}}\n"
SOUND = MODELS + "nodes:\n  a: {type: chat, model: m}\nedges:\n- {from: start, to: a}\n- {from: a, to: end}\n"

Text = str | bytes

ODD_NUMBERS = "1e999 -1e999 .inf -.inf .nan 1e-999 0x 0o8 + - . 1_000 12:30 1.2.3"
UNITS = "[~{~${~{${~[ ~${}~{a: ~'~\"~&~*~!~, ~: ~? ~- ~| ~> ~%~@~`~#"
"""What a line of nothing else may be made of."""


def filled(unit: str, head: str = "", tail: str = "") -> str:
    """The unit as often as fits into a file."""
    return head + unit * ((LIMIT - len(head) - len(tail)) // len(unit)) + tail


def numbered(unit: str, head: str = "", tail: str = "", most: int = 10**6) -> str:
    """The unit with `#` replaced by 0, 1, 2…, `@` by the next number, as often as fits."""
    parts, size = [head], len(head) + len(tail)
    for number in range(most):
        part = unit.replace("#", str(number)).replace("@", str(number + 1))
        size += len(part)
        if size > LIMIT:
            break
        parts.append(part)
    return "".join([*parts, tail])


def bombs() -> Iterator[tuple[str, Text]]:
    """Aliases and merges that expand, in several shapes."""
    for width in (2, 10, 50):
        lines = [f"x-0: &a0 [{', '.join('x' * width)}]"]
        lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 40)]
        yield f"list bomb {width}", "version: 1\n" + "\n".join(lines)
        lines = ["x-0: &a0 {k: v}"]
        lines += [f"x-{n}: &a{n} {{{', '.join(f'k{key}: *a{n - 1}' for key in range(width))}}}" for n in range(1, 40)]
        yield f"mapping bomb {width}", "version: 1\n" + "\n".join(lines)
        for start in ("{}", "{k: v}"):
            lines = [f"x-0: &a0 {start}"]
            lines += [f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, 40)]
            yield f"merge bomb {width} {start}", "version: 1\n" + "\n".join(lines)
    yield "merge chain", numbered("x-@: &a@ {<<: *a#}\n", "x-0: &a0 {}\n")
    yield "alias chain", numbered("x-@: &a@ [*a#]\n", "x-0: &a0 []\n")
    yield "merge of itself", "x: &a {<<: *a}"
    yield "merge of its parent", "x: &a {y: {<<: *a}}"
    yield "list of itself", "x: &a [*a]"
    yield "mapping of itself", "x: &a {y: {z: *a}}"
    yield "anchor again and again", filled("&a ", "x: [", "]")
    yield "one anchor, many times", numbered("x-#: &a *a\n", "x: &a 1\n")
    yield "aliases of one list", filled("- *a\n", "x-a: &a [1, 2, 3, 4, 5, 6, 7, 8]\nx-b:\n")
    yield "aliases of a long text", filled("- *a\n", "x-a: &a '" + "y" * 60_000 + "'\nx-b:\n")
    yield "alias as key", "x: &a k\n*a : v\n"
    yield "wide merge", numbered("k#: 1, ", "x-a: &a {", "}\nx-b: {<<: [*a, *a, *a, *a, *a, *a, *a, *a]}\n", 15_000)
    yield "nodes by alias", SOUND.replace("edges:", "  b: &b {type: chat, model: m}\n  c: *b\nedges:")


def depths() -> Iterator[tuple[str, Text]]:
    """Deep nesting, in every style."""
    for depth in (100, 10_000, 100_000):
        yield f"flow lists {depth}", "x: " + "[" * depth
        yield f"closed flow lists {depth}", "x: " + "[" * depth + "]" * depth
        yield f"flow mappings {depth}", "x: " + "{a: " * min(depth, 60_000)
        yield f"explicit keys {depth}", "? " * depth
        yield f"block lists {depth}", "- " * depth
        yield f"mixed {depth}", "x: " + "[{a: " * min(depth, 40_000)
    yield "indented mappings", "\n".join(" " * n + "a:" for n in range(700))
    yield "indented lists", "\n".join(" " * n + "-" for n in range(700))
    yield "tagged depth", "x: " + "!a [" * 50_000
    yield "anchored depth", numbered("&a# [", "x: ")


def scalars() -> Iterator[tuple[str, Text]]:
    """Huge and odd scalars."""
    yield "huge plain", filled("x", "name: ")
    yield "huge quoted", filled("x", "name: '", "'")
    yield "huge quotes", filled("''", "name: '", "'")
    yield "huge escapes", filled("\\u0041", 'name: "', '"')
    yield "huge number", filled("9", "version: ")
    yield "huge negative", filled("9", "version: -")
    yield "huge hexadecimal", filled("f", "version: 0x")
    yield "huge octal", filled("7", "version: 0o")
    yield "huge exponent", "version: 1e" + "9" * 60
    yield "huge float", filled("0", "version: 1.", "1")
    yield "many zeros", filled("0", "version: ")
    for value in ODD_NUMBERS.split():
        yield f"version {value}", f"version: {value}\n"
        yield f"param {value}", SOUND.replace("nodes:", f"params: {{p: {value}}}\nnodes:")
        yield (
            f"bounds {value}",
            SOUND.replace("nodes:", f"params: {{p: {{default: 1, min: {value}, max: {value}}}}}\nnodes:"),
        )
        yield f"limit {value}", SOUND.replace("nodes:", f"limits: {{usd_per_day: {value}, timeout: {value}s}}\nnodes:")
    yield "huge duration", SOUND.replace("model: m}\n", "model: m, timeout: " + "9" * 5_000 + "s}\n")
    yield "huge literal block", filled("  line\n", "name: |\n")
    yield "huge folded block", filled("  line\n", "name: >-\n")
    yield "blank lines", filled("\n", SOUND)
    yield "comments", filled("# \n", SOUND)
    yield "spaces", filled(" ", SOUND)
    yield "one long comment", filled("#", SOUND)


def bytes_of_all_kinds() -> Iterator[tuple[str, Text]]:
    """Binary, wrong encodings, control characters."""
    yield "nul", b"\x00"
    yield "nul inside", b"version: 1\x00"
    yield "nuls", b"\x00" * LIMIT
    yield "binary", bytes(range(256)) * 100
    yield "utf-16", SOUND.encode("utf-16")
    yield "utf-32", SOUND.encode("utf-32")
    yield "latin-1", "name: é".encode("latin-1")
    yield "overlong", b"name: \xc0\xaf"
    yield "surrogate bytes", b"name: \xed\xa0\x80"
    yield "lone surrogate", "name: \ud800"
    yield "escaped surrogate", 'name: "\\ud800"'
    yield "escaped surrogate in a condition", SOUND.replace("to: a}", "to: a, when: \"input == '\\ud800'\"}")
    yield "escaped nul in a condition", SOUND.replace("to: a}", 'to: a, when: "input == \\"\\0\\""}')
    yield "escaped nul as id", SOUND.replace("  a:", '  "\\0":')
    yield "beyond unicode", 'name: "\\UFFFFFFFF"'
    yield "marks", "\ufeff" * 1000 + SOUND
    yield "line separators", SOUND.replace("\n", "\u2028")
    yield "next lines", SOUND.replace("\n", "\x85")
    yield "returns", SOUND.replace("\n", "\r")
    yield "form feeds", "version: 1\f\nnodes: 1"
    yield "escapes", "name: \x1b[2J"
    yield "right to left", "name: \u202e\nnodes: \u202e"
    yield "astral", filled("\U0001f600", "name: ")[: LIMIT // 4]
    yield "combining", ("name: a" + "\u0301" * 80_000)
    yield "gzip", b"\x1f\x8b\x08\x00" + bytes(1000)
    yield "pickle", b"\x80\x04\x95\x15\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    yield "tabs", "\t\tversion:\t1\n"
    yield "too large", "x" * 300_000
    yield "far too large", b"x" * 30_000_000


def tags_and_directives() -> Iterator[tuple[str, Text]]:
    """Tags, directives, documents."""
    kinds = (
        "object:os.system",
        "object/apply:os.system",
        "object/new:os.system",
        "name:os.system",
        "module:os",
        "tuple",
    )
    for kind in kinds:
        yield f"python/{kind}", f"x: !!python/{kind} [id]"
    for tag in (
        "!!binary aGk=",
        "!!set {a}",
        "!!timestamp 2001-01-01",
        "!!int '3'",
        "!!merge x",
        "!<tag:x> y",
        "! y",
        "!h!x y",
    ):
        yield f"tag {tag}", f"version: {tag}\n"
    yield "many tags", filled("- !a b\n")
    yield "tag handle", "%TAG ! tag:evil,2000:\n---\nversion: !x 1\n"
    yield "yaml 1.1", "%YAML 1.1\n---\n" + SOUND
    yield "yaml 9.9", "%YAML 9.9\n---\n" + SOUND
    yield "yaml twice", "%YAML 1.2\n%YAML 1.2\n---\n" + SOUND
    yield "many directives", filled("%X y\n")
    yield "many tag directives", numbered("%TAG !a#! tag:x,2000:\n", tail="---\nversion: 1\n")
    yield "many documents", filled("---\nversion: 1\n")
    yield "many ends", filled("...\n")
    yield "end in the middle", SOUND.replace("edges:", "...\nedges:")


def sections() -> Iterator[tuple[str, Text]]:
    """Large and twisted sections."""
    yield "many keys", numbered("k#: 1\n")
    yield "one key many times", filled("k: 1\n")
    yield "many x- keys", numbered("x-#: 1\n", SOUND)
    yield "one list many times", filled("k: [1]\n")
    yield "sections twice", SOUND * 2
    yield "sections very often", filled(SOUND)
    yield "many params", numbered("  p#: 1\n", SOUND + "params:\n", most=15_000)
    yield "many faulty params", numbered("  P#: 1\n", SOUND + "params:\n", most=15_000)
    yield "many models", numbered("  m#: {provider: host}\n", "version: 1\nmodels:\n")
    yield (
        "many faulty models",
        SOUND.replace(
            "{m: {provider: host}}", "\n  m: {provider: host}\n" + numbered("  m#: {provider: hots}\n", most=6_000)
        ),
    )
    yield "many unknown options", SOUND.replace("model: m}", "model: m, " + numbered("k#: 1, ", most=15_000) + "}")
    yield "many nodes, no edges", numbered("  n#: {type: chat, model: m}\n", MODELS + "nodes:\n") + "edges: []\n"
    yield (
        "many unknown types",
        numbered("  n#: {type: x#}\n", MODELS + "nodes:\n") + "edges:\n- {from: start, to: n0}\n",
    )
    nodes = "  n#: {type: prompt, template: x, role: answer}\n"
    chain = numbered(nodes, MODELS + "nodes:\n", most=2_400)
    yield (
        "chain",
        chain
        + "edges:\n- {from: start, to: n0}\n"
        + numbered("- {from: n#, to: n@}\n", most=2_399)
        + "- {from: n2399, to: end}\n",
    )
    yield (
        "circle",
        chain
        + "edges:\n- {from: start, to: n0}\n"
        + numbered("- {from: n#, to: n@}\n", most=2_399)
        + "- {from: n2399, to: n0}\n",
    )
    signals = numbered("  n#: {type: chat, model: m, role: signal}\n", MODELS + "nodes:\n", most=2_200)
    yield (
        "chain of signals",
        signals
        + "edges:\n- {from: start, to: n0}\n"
        + numbered("- {from: n#, to: n@}\n", most=2_199)
        + "- {from: n2199, to: end}\n",
    )
    yield "lonely nodes", chain + "edges:\n- {from: start, to: n0}\n- {from: n0, to: end}\n"
    readers = "  n@:\n    type: prompt\n    template: '{x}'\n    with:\n      x: ${n#.text}\n    role: answer\n"
    reading = numbered(readers, MODELS + "nodes:\n  n0: {type: prompt, template: x, role: answer}\n", most=1_700)
    yield (
        "chain of readers",
        reading
        + "edges:\n- {from: start, to: n0}\n"
        + numbered("- {from: n#, to: n@}\n", most=1_700)
        + "- {from: n1700, to: end}\n",
    )
    yield "edges to nowhere", numbered("- {from: x#, to: y#}\n", SOUND, most=6_000)
    yield "edges between two", SOUND + "- {from: a, to: end, when: a.ok}\n" * 4_500
    yield "edges without keys", filled("- {}\n", SOUND)[:90_000]
    yield "edges of text", filled("- x\n", SOUND)[:60_000]
    yield "edges to many unknown nodes", chain + "edges:\n" + numbered("- {from: n#, to: x#}\n", most=2_400)
    yield (
        "a wide group",
        chain
        + "  g: {type: race, of: ["
        + numbered("n#, ", most=2_400)
        + "]}\nedges:\n- {from: start, to: g}\n- {from: g, to: end}\n",
    )
    yield (
        "a group of nobody",
        SOUND.replace("edges:", "  g: {type: race, of: [" + numbered("x#, ", most=15_000) + "]}\nedges:"),
    )
    yield "a group of one, often", SOUND.replace("edges:", "  g: {type: race, of: [" + "a, " * 15_000 + "]}\nedges:")
    yield "many labels", SOUND.replace("model: m}", "model: m, labels: [" + numbered("l#, ", most=15_000) + "]}")
    yield (
        "many ports",
        SOUND.replace(
            "{type: chat, model: m}",
            "{type: runnable, name: f, role: answer, ports: {" + numbered("p#: string, ", most=8_000) + "}}",
        ),
    )
    yield (
        "a long template",
        SOUND.replace("{type: chat, model: m}", "{type: prompt, role: answer, template: '" + "{x}" * 60_000 + "'}"),
    )
    yield (
        "many placeholders",
        SOUND.replace(
            "{type: chat, model: m}", "{type: prompt, role: answer, template: '" + numbered("{x#}", most=20_000) + "'}"
        ),
    )
    yield (
        "many braces",
        SOUND.replace("{type: chat, model: m}", "{type: prompt, role: answer, template: '" + "{" * 200_001 + "'}"),
    )
    yield (
        "a long reference",
        SOUND.replace(
            "{type: chat, model: m}",
            "\n    type: chat\n    model: m\n    system: ${" + "a.text ?? " * 20_000 + "input.text}",
        ),
    )
    yield (
        "a blank reference",
        SOUND.replace(
            "{type: chat, model: m}", "\n    type: chat\n    model: m\n    system: '${" + " " * 200_000 + "'"
        ),
    )
    yield (
        "a regex in a reference",
        SOUND.replace(
            "{type: chat, model: m}", "\n    type: chat\n    model: m\n    system: ${" + "a_" * 100_000 + "!}"
        ),
    )
    schema = "{type: object, required: [" + numbered("[#], ", most=6_000) + "]}"
    yield "a schema of lists", SOUND.replace("model: m}", f"model: m, output: {schema}}}")
    yield "a deep schema", SOUND.replace("model: m}", "model: m, output: " + "{not: " * 18 + "{}" + "}" * 18 + "}")
    yield "a schema of its own", SOUND.replace("model: m}", "model: m, output: {$schema: [1], type: object}}")
    yield "a schema by reference", SOUND.replace("model: m}", "model: m, output: {$ref: 'http://127.0.0.1:9/x'}}")
    yield "a schema with a regex", SOUND.replace("model: m}", "model: m, output: {pattern: '(a+)+(', type: string}}")
    yield (
        "a schema, old and mixed",
        SOUND.replace(
            "model: m}",
            "model: m, output: {$schema: 'http://json-schema.org/draft-04/schema#', enum: ["
            + numbered("{a: #}, ", most=5_000)
            + "]}}",
        ),
    )


def conditions() -> Iterator[tuple[str, Text]]:
    """Giant and twisted conditions."""
    texts = {
        "parentheses": "(" * 900 + "a.ok" + ")" * 900,
        "open parentheses": "(" * 1_900,
        "open brackets": "[" * 1_900,
        "not": "not " * 480 + "a.ok",
        "minus": "-" * 1_900 + "1 > 0",
        "plus": "1" + "+1" * 900 + " > 0",
        "chain": "1" + " < 1" * 480,
        "and": "a.ok" + " and a.ok" * 200,
        "power": "2 ** 9 ** 9 ** 9 > 1",
        "digits": "9" * 1_900 + " > 1",
        "product": "9999999999" + " * 9999999999" * 90 + " > 1",
        "huge float": "1e999 > 1",
        "text product": "'a' * 10000000000 == 'b'",
        "attributes": "a" + ".b" * 900 + " == 1",
        "calls": "min(" * 300 + "1" + ")" * 300 + " > 1",
        "lambda": "(lambda: (lambda: 1)())() > 1",
        "comprehension": "[x for x in 1] == 1",
        "walrus": "(x := 1) == 1",
        "import": "__import__('os').system('id') == 0",
        "classes": "a.__class__.__mro__ == 1",
        "unicode names": "\uff41.ok and a.\uff4f\uff4b",
        "unicode underscore": "a.\uff3f\uff3fclass\uff3f\uff3f == 1",
        "f-string": "f'{a}' == 'x'",
        "bytes": "b'x' == b'x'",
        "complex": "1j == 1j",
        "ellipsis": "... == ...",
        "await": "await a.ok",
        "yield": "(yield) == 1",
        "star": "min(*a.text) > 1",
        "backslash": "a.ok and \\",
        "comment": "a.ok # and",
        "semicolon": "a.ok; a.ok",
        "nested chains": "(((1 < 2 < 3) == true == true) == true == true) == true",
        "long text": "input == '" + "x" * 1_900 + "'",
        "too long": "a.ok or " * 20_000 + "a.ok",
        "return inside": "a.ok\rand a.ok",
        "bad escape": "input == '\\N{x}'",
        "warning": "input == '\\d' and 1 is 1",
        "null arithmetic": "null + 1 > 2",
        "division": "1 / 0 > 1",
    }
    for name, text in texts.items():
        quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r") + '"'
        yield f"condition: {name}", SOUND.replace("to: end}", f"to: end, when: {quoted}}}\n- {{from: a, to: end}}")
    many = " or ".join(["a.tokens > 1"] * 100)
    yield "many long conditions", SOUND + f"- {{from: a, to: end, when: '{many}'}}\n" * 150
    deep = "(" * 38 + "a.ok" + " or a.ok)" * 38
    yield "many deep conditions", SOUND + f"- {{from: a, to: end, when: '{deep}'}}\n" * 500


def syntax() -> Iterator[tuple[str, Text]]:
    """Errors on long lines, where looking for the cause could take long."""
    for unit in UNITS.split("~"):
        yield f"line of {unit!r}", filled(unit)
        yield f"plain line of {unit!r}", filled(unit, "name: x", "\n: : :\n")
    yield "blanks before a reference", "x: {a:" + " " * 200_000 + "${b}}"
    yield "many lines in a bracket", filled("x,\n", "x: [", "")
    yield "simple keys", filled("a: a: ")
    yield "keys in brackets", filled("[a]: ")
    yield "never a value", filled("a\n")
    yield "colons", filled(":\n")


def noise(count: int = 60) -> Iterator[tuple[str, Text]]:
    """A sound graph with random edits, the same ones each time."""
    chance = random.Random(7)
    for number in range(count):
        text = list(SOUND)
        for _ in range(chance.randint(1, 12)):
            place = chance.randrange(len(text))
            text[place] = chance.choice([*string.printable, "${a.text}", "*", "&a ", "<<: ", "\n", "", "- ", "[", "{"])
        yield f"noise {number}", "".join(text)


def all_texts() -> Iterator[tuple[str, Text]]:
    """Every hostile text with its name."""
    makers = (bombs, depths, scalars, bytes_of_all_kinds, tags_and_directives, sections, conditions, syntax, noise)
    for make in makers:
        yield from make()
