# Every target does its own set-up: a virtual environment in .venv with the project and its development tools.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: seeded-bugs explore test check demo web chaos bench lab setup services clean

setup: .venv/ready

.venv/ready: pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli,postgres,rabbitmq,nats]'
	touch $@

# In two processes, since most tests wait for servers most of the time; each process has servers of its own.
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright

# ENGINE=postgres, rabbitmq or nats: with private servers, which fall as well. For bench also all, one after the other.
ENGINE ?= sqlite

demo: .venv/ready
	$(BIN)/outlast demo --engine $(ENGINE) $(ARGS)

# The shop with a web page: http://127.0.0.1, on a free port unless PORT names one.
PORT ?= 0

web: .venv/ready
	$(BIN)/python -m examples.shop.web_demo --engine $(ENGINE) --port $(PORT) $(ARGS)

chaos: .venv/ready
	$(BIN)/python -m examples.shop.chaos --engine $(ENGINE) $(ARGS)

bench: .venv/ready
	$(BIN)/python -m bench.run --engine $(ENGINE) $(ARGS)

# One shop built in four ways, under one schedule of faults; writes docs/why.md. About ten minutes.
lab: .venv/ready
	$(BIN)/python -m lab $(ARGS)

# Plants known bugs in a copy of the library, one at a time, and shows which search finds them.
seeded-bugs: .venv/ready
	$(BIN)/python -m tests.seeded_bugs $(ARGS)

# Searches for broken rules beyond what the tests do; ARGS=--pairs or ARGS="--seeds 1000" for more.
explore: .venv/ready
	$(BIN)/python -m tests.simulation.exhaustive $(ARGS)

# What PyPI has no package of: RabbitMQ and Chromium, from the operating system. Does nothing where all is there.
services:
	sh servers/install.sh

clean:
	rm -rf .venv .bench
