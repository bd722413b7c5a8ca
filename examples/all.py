"""Every family of nodes in one graph: what a request is decides whether it is drawn, judged or answered.

    pip install "dynflow[quickstart,transformers,diffusers]"
    python examples/all.py

Nothing is asked of the cloud here but what the check doubts of a draft, and without a key the draft stands.
"""

import base64
import io

from PIL import Image

import dynflow
from dynflow import graphs

REQUESTS = [
    "Draw two red circles above a blue square",
    "Review: a gorgeous, witty, seductive movie",
    "What is the capital of France?",
]

flow = dynflow.load(graphs.path("all"))

for request, answer in zip(REQUESTS, flow.batch(REQUESTS), strict=True):
    record = answer.response_metadata["dynflow"]
    print(request)
    print(f"  path {' > '.join(record['path'])}")
    for node in record["nodes"]:
        print(f"    {node['node']}: {', '.join(f'{name} {value}' for name, value in node['values'].items())}")
    said = answer.text
    if not said:
        [block] = answer.content
        width, height = Image.open(io.BytesIO(base64.b64decode(block["base64"]))).size
        said = f"a picture of {width} x {height} pixels"
    print(f"  answer {said}")
    print(f"  cost ${record['ledger']['usd']:.6f}")

print(flow.get_graph().draw_mermaid())
