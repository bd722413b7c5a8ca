"""An answer as it is written; what was drafted, and accepted by the model, is green.

python examples/speculative_stream.py ["your prompt"]
"""

import sys

import dynflow
from dynflow import graphs
from dynflow.speculation.statistics import ACCEPTED_KEY

PROMPT = """Repeat the following text word for word:

The town of Marlow plans a new swimming pool beside the railway station. The pool will have eight lanes, a basin for
children and a sauna. Building starts in March and should take two years."""
GREEN, PLAIN = "\033[32m", "\033[0m"


def main(prompt: str) -> None:
    """Write the answer in colour, and then what its statistics say."""
    flow = dynflow.load(graphs.path("speculative"))
    record = None
    for chunk in flow.stream(prompt):
        accepted = chunk.response_metadata.get(ACCEPTED_KEY)
        print(f"{GREEN}{chunk.text}{PLAIN}" if accepted else chunk.text, end="", flush=True)
        record = chunk.response_metadata.get("dynflow", record)
    print()
    if record is not None:
        print("\n".join(note for node in record["nodes"] for note in node.get("notes", ())))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or PROMPT)
