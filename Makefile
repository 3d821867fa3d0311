.PHONY: style check test-slow processors fuzz

PYTHON ?= python

style:  ## rewrite the files in the project's style
	ruff check --fix .
	ruff format .

check:  ## what a change has to pass
	ruff check .
	ruff format --check .
	mypy
	mypy spaces/separation/app.py  # two files of one name do not go into one run
	mypy spaces/text-to-audio/app.py
	$(PYTHON) -m pytest -q

test-slow:  ## everything, the long tests too
	$(PYTHON) -m pytest -q -m "slow or not slow"

processors:  ## the tests that compute numbers, as older processors and other thread counts would; prints a table
	$(PYTHON) tests/support/processors.py

CASES ?= 2000
BASE ?= 1

fuzz:  ## hostile files of every kind, each in a process with limits; BASE=2 for others
	$(PYTHON) tests/support/fuzz --cases $(CASES) --base $(BASE)
