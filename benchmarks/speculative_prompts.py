"""Prompts of `benchmarks/speculative.py`: six tasks, eight prompts each, written for it.

A small model does not always do what it is asked, and a copy that is none measures something else. So copies, extracts
and edits are worded, and their texts chosen, so that SmolLM2, decoding plainly, mostly does them; speed was no ground.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_PASSAGES = (
    "The harbour of Westmouth closed on Monday after a crane fell across the main pier. Nobody was hurt, but two "
    "barges were damaged and a warehouse lost part of its roof. The harbour master, Ellen Price, said that "
    "repairs would take three weeks. Until then, ferries to Sandholm leave from the old quay at six in the "
    "morning and at four in the afternoon. Tickets that were bought before Monday remain valid.",
    "Oakfield Library lends tools as well as books since last spring. Members may borrow a drill, a saw or a "
    "ladder for five days without a fee. More than four hundred people have joined since then, and the library "
    "bought a second set of drills in August. Its director, Tomas Lind, hopes to add sewing machines next year. "
    "Late returns cost two pounds a day.",
    "The night train from Bern to Hamburg will run again from the tenth of December. It leaves Bern at nine in "
    "the evening and reaches Hamburg at eight in the morning. A bed costs ninety francs, a seat forty. Bicycles "
    "must be booked in advance, and dogs travel for half the price of a seat. The railway expects sixty thousand "
    "passengers in the first year.",
    "Researchers at the University of Porto tested a paint that keeps roofs cool. On a clear day in July, a "
    "painted roof was eleven degrees cooler than the roof beside it. The paint reflects most of the sunlight and "
    "costs about six euros per square metre. It must be renewed every seven years. The team now looks for a city "
    "that would paint a whole street.",
    "The town of Marlow plans a new swimming pool beside the railway station. The pool will have eight lanes, a "
    "basin for children and a sauna. Building starts in March and should take two years. The council pays nine "
    "million pounds, and a lottery pays the rest. Neighbours worry about traffic, so the car park will have only "
    "forty places.",
    "A hiker found a wallet on the summit of Ben Corrie last Sunday. It held three hundred pounds, a train ticket "
    "from 1998 and the photograph of a brown dog. The police traced the owner, a retired baker named Hugh "
    "Mallory, in less than a day. He had lost it on his honeymoon. Mr Mallory gave the money to the mountain "
    "rescue team.",
    "The Larkspur is a small electric van for city deliveries. Its battery lasts one hundred and eighty "
    "kilometres and is charged in fifty minutes. It carries seven hundred kilograms and turns in a circle of nine "
    "metres. The first vans go to a bakery in Lyon in October. The price is twenty-four thousand euros without "
    "the battery, which is rented.",
    "Bees came back to Hollin Farm after the owners stopped mowing the north field. In the first summer they "
    "counted twelve kinds of wild bees, in the third summer thirty-one. The harvest of the apple trees beside the "
    "field grew by a fifth. The farm now mows only once a year, in late September. Visitors may walk through the "
    "field on Saturdays.",
)

_CODE = (
    """class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        self.balance += amount
        return self.balance

    def withdraw(self, amount):
        self.balance -= amount
        return self.balance
""",
    """class Counter:
    def __init__(self, start=0):
        self.value = start

    def increase(self, step=1):
        self.value += step
        return self.value

    def decrease(self, step=1):
        self.value -= step
        return self.value
""",
    """class Rectangle:
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        return self.width * self.height

    def perimeter(self):
        return 2 * (self.width + self.height)
""",
    """def merge_sorted(left, right):
    merged = []
    i = 0
    j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]
""",
    """class Queue:
    def __init__(self):
        self.waiting = []

    def add(self, name):
        self.waiting.append(name)

    def next(self):
        if not self.waiting:
            return None
        return self.waiting.pop(0)
""",
    """def find_path(graph, start, goal):
    queue = [[start]]
    seen = {start}
    while queue:
        path = queue.pop(0)
        if path[-1] == goal:
            return path
        for node in graph[path[-1]]:
            if node not in seen:
                seen.add(node)
                queue.append(path + [node])
    return None
""",
    """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the stack is empty")
        return self.items.pop()
""",
    """def binary_search(values, wanted):
    low = 0
    high = len(values) - 1
    while low <= high:
        middle = (low + high) // 2
        if values[middle] == wanted:
            return middle
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    return -1
""",
)

_EDITS = (
    ("balance", "total"),
    ("value", "count"),
    ("height", "length"),
    ("merged", "output"),
    ("waiting", "line"),
    ("queue", "waiting"),
    ("items", "elements"),
    ("middle", "centre"),
)

_ASKED = (
    "How long will the repairs take, and from where do the ferries leave until then?",
    "What may members borrow, and for how long?",
    "When does the night train leave Bern, and when does it reach Hamburg?",
    "How much cooler was the painted roof, and what does the paint cost?",
    "What will the new pool have, and who pays for it?",
    "What was in the wallet, and whose was it?",
    "How far does the van go with one charge, and how much does it carry?",
    "How many kinds of bees were counted, and when does the farm mow?",
)

_OPENINGS = (
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Describe a market in a town that exists only at night.",
    "Write a letter from a grandmother to her grandson who moves to another country.",
    "Explain to a child why the sky is blue.",
    "Write a poem about the first snow of the year.",
    "Give your view: should schools teach cooking? Argue for it.",
    "Invent a new holiday and tell how people celebrate it.",
    "Tell the story of a clockmaker who has run out of time.",
)


_REPEAT = "Repeat the following text word for word:"
_PROOFREAD = "Proofread this text. If there are no mistakes, write it again without any change."
_NUMBERS = "Extract the sentences of this text that name a number or a day. Quote them word for word."
_FIRST = "Quote the first three sentences of this text, each on a line of its own:"
_FACTS = "List the facts of this text as it states them, word for word:"
_COPIES = (_REPEAT,) * 3 + (_PROOFREAD,) * 5
_EXTRACTS = (_FIRST, _NUMBERS, _NUMBERS, _FACTS, _FACTS, _FIRST, _NUMBERS, _NUMBERS)

PROMPTS: Mapping[str, Sequence[str]] = {
    "copy": tuple(f"{task}\n\n{passage}" for task, passage in zip(_COPIES, _PASSAGES, strict=True)),
    "extract": tuple(f"{task}\n\n{passage}" for task, passage in zip(_EXTRACTS, _PASSAGES, strict=True)),
    "edit": tuple(
        f"Rename the variable `{old}` to `{new}` in this code. Write the whole code again and change nothing else.\n\n"
        f"```python\n{code}```"
        for code, (old, new) in zip(_CODE, _EDITS, strict=True)
    ),
    "summarise": tuple(f"Summarise this text in two sentences:\n\n{passage}" for passage in _PASSAGES),
    "answer": tuple(
        f"Answer the question from the text.\n\nText: {passage}\n\nQuestion: {question}"
        for passage, question in zip(_PASSAGES, _ASKED, strict=True)
    ),
    "write": _OPENINGS,
}
"""Prompts by task. The first four of each are the short run's."""
