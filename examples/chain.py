"""A flow inside a LangChain chain: a prompt before it, a parser after it, streamed through.

python examples/chain.py
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

import dynflow
from dynflow import graphs

flow = dynflow.load(graphs.path("quickstart"))
prompt = ChatPromptTemplate.from_messages([("system", "Answer in one short sentence."), ("human", "{question}")])
chain = prompt | flow | StrOutputParser()

for text in chain.stream({"question": "What is the capital of France?"}):
    print(text, end="", flush=True)
print()
