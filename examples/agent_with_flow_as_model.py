"""An agent whose model is a flow: each turn goes to the small or to the large model, as hard as the question is.

    pip install langchain "dynflow[litellm,quickstart]"
    OPENAI_API_KEY=sk-… python examples/agent_with_flow_as_model.py

Without a key, point `OPENAI_BASE_URL` at a local server that calls tools, name its models by `SMALL_MODEL` and
`LARGE_MODEL` (such as `openai/qwen3:4b` for Ollama's http://localhost:11434/v1), and set `OPENAI_API_KEY` to any text.
"""

from langchain.agents import create_agent

import dynflow

GRAPH = """
version: 1
name: agent_model
models:
  small: {provider: litellm, model: "${env:SMALL_MODEL:-openai/gpt-5-nano}", api_key: "${env:OPENAI_API_KEY}"}
  large: {provider: litellm, model: "${env:LARGE_MODEL:-openai/gpt-5-mini}", api_key: "${env:OPENAI_API_KEY}"}
nodes:
  difficulty: {type: difficulty_classifier, on_failure: {score: 1.0}}
  quick: {type: chat, model: small, max_tokens: 2000}
  thorough: {type: chat, model: large, max_tokens: 2000}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: quick, when: difficulty.score < 0.5 and input.turns < 4}
  - {from: difficulty, to: thorough}       # the most capable model last: tools may close the edges before it
  - {from: quick, to: thorough, when: quick.failed}
  - {from: quick, to: end}
  - {from: thorough, to: end}
limits: {timeout: 120s}
"""


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


agent = create_agent(model=dynflow.loads(GRAPH).as_chat_model(), tools=[get_weather])
done = agent.invoke({"messages": [{"role": "user", "content": "What is the weather in Paris?"}]})

for message in done["messages"]:
    record = message.response_metadata.get("dynflow")
    print(f"{message.type}: {message.text or [(call['name'], call['args']) for call in message.tool_calls]}")
    if record is not None:
        print(f"    path {' > '.join(record['path'])}")
