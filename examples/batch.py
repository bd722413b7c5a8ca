"""Many questions at once: results in order, each with the path it took and what it cost.

    python examples/batch.py

The questions are scored together in one batch of the classifier. `max_concurrency` bounds the answers that are written
side by side. `return_exceptions=True` puts a failed request's error in its place; without it the first one is raised.
"""

import dynflow
from dynflow import graphs

QUESTIONS = [
    "What is the capital of France?",
    "How many days are in a week?",
    "Why does my SQL query with two left joins return duplicate rows?",
]

flow = dynflow.load(graphs.path("quickstart"))
answers = flow.batch(QUESTIONS, {"max_concurrency": 2}, return_exceptions=True)

for question, answer in zip(QUESTIONS, answers, strict=True):
    print(question)
    if isinstance(answer, Exception):
        print("  failed:", answer)
        continue
    record = answer.response_metadata["dynflow"]
    score = next(node["values"]["score"] for node in record["nodes"] if node["node"] == "difficulty")
    print(f"  score {score:.2f}, path {' > '.join(record['path'])}, ${record['ledger']['usd']:.6f}")
    print(f"  {answer.content}")
