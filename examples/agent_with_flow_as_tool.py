"""An agent with a flow as its tool: it hands questions of fact to the quickstart graph, which answers on this machine.

    pip install langchain "dynflow[litellm,quickstart]"
    OPENAI_API_KEY=sk-… python examples/agent_with_flow_as_tool.py

The agent's own model is hosted. Without a key, point `OPENAI_BASE_URL` at a local server that calls tools, name its
model by `LARGE_MODEL` (such as `openai/qwen3:4b` for Ollama's http://localhost:11434/v1), and set `OPENAI_API_KEY` to
any text. The agent reads the flow's answer as text; the decision record comes along as the message's artifact.
"""

from langchain.agents import create_agent

import dynflow
from dynflow import graphs

AGENT_MODEL = """
version: 1
models:
  large: {provider: litellm, model: "${env:LARGE_MODEL:-openai/gpt-5-mini}", api_key: "${env:OPENAI_API_KEY}"}
nodes:
  answer: {type: chat, model: large, max_tokens: 2000}
edges:
  - {from: start, to: answer}
  - {from: answer, to: end}
"""

encyclopedia = dynflow.load(graphs.path("quickstart")).to_tool(
    "encyclopedia", "Answers one question of general knowledge, such as: What is the capital of France?"
)
agent = create_agent(model=dynflow.loads(AGENT_MODEL).as_chat_model(), tools=[encyclopedia])
done = agent.invoke({"messages": [{"role": "user", "content": "What is the capital of France?"}]})

for message in done["messages"]:
    print(f"{message.type}: {message.text or [(call['name'], call['args']) for call in message.tool_calls]}")
    if message.type == "tool":
        record = message.artifact
        print(f"    path {' > '.join(record['path'])}, ${record['ledger']['usd']:.6f}")
