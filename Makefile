# Everything happens in a virtual environment of its own: nothing but Python and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
MEMORY ?= database
TRACE ?=
# Three processes also on two cores, as tests wait for servers and for each other.
SIDE_BY_SIDE := --numprocesses 3 --no-loadscope-reorder

.PHONY: help demo serve screenshots test coverage matrix bench docs lint format clean

help:
	@echo "make demo      drive orders through a workflow while workers are killed; ARGS='--orders 500 --kill 10'"
	@echo "               MEMORY=redis keeps the machines in Redis: at REDIS_URL, or on a server of its own"
	@echo "               TRACE=1 shows the trace of one more order as a tree"
	@echo "make serve     show the admin, with a login and with workers that hold orders; ARGS='--port 8001'"
	@echo "               MEMORY=redis keeps the orders in Redis, as for the demo"
	@echo "               TRACE=1 prints the spans of its requests, or sends them to OTEL_EXPORTER_OTLP_ENDPOINT"
	@echo "make test      run the tests on every database that is there; ARGS='-k lease'"
	@echo "make coverage  the same, and measure branch coverage"
	@echo "make bench     measure side by side with drivers and peers, in five minutes; ARGS='--large'"
	@echo "make matrix    the tests on each Python with each Django, on the least versions, and the wheel; ARGS='-k \"published and ends\"'"
	@echo "make docs      build the documentation into docs/_build, with warnings as errors, and list the links that lead out"
	@echo "make lint      check style, types and migrations"
	@echo "make screenshots"
	@echo "               take the pictures of the admin anew, with chromium and chromedriver"

demo: $(VENV)/$(if $(TRACE),trace,demo)
	MEMORY=$(MEMORY) TRACE=$(TRACE) $(BIN)/python manage.py demo $(ARGS)

serve: $(VENV)/$(if $(TRACE),trace,demo)
	MEMORY=$(MEMORY) TRACE=$(TRACE) $(BIN)/python manage.py serve $(ARGS)

screenshots: $(VENV)/test
	$(BIN)/python -m example_project.screenshots

test: $(VENV)/test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

coverage: $(VENV)/test
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

matrix: $(VENV)/matrix
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nox $(ARGS)

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --json benchmarks/results.json --markdown benchmarks/results.md $(ARGS)

docs: $(VENV)/test
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build
	@grep --recursive --only-matching --no-filename --extended-regexp 'https?://[^][ )>"`]+' README.md docs --include='*.md' | sort -u
	@echo "docs/_build/index.html"

lint: $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python manage.py makemigrations --check --dry-run

format: $(VENV)/test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) example.sqlite3*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(BIN)/python pyproject.toml
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --group example --editable .
	@touch $@

$(VENV)/trace: $(VENV)/demo
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group trace --editable .
	@touch $@

$(VENV)/test: $(VENV)/demo pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs --group example --group lint --group test --group trace --editable '.[postgresql]'
	@# It is compiled here, which takes the headers of MariaDB or MySQL; the tests say so where it is missing.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mysql]' >$(VENV)/mysql.log 2>&1 || \
		echo "mysqlclient could not be installed ($(VENV)/mysql.log): MariaDB will not be tested."
	@touch $@

$(VENV)/bench: $(VENV)/test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench --editable .
	@touch $@

$(VENV)/matrix: $(BIN)/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group matrix
	@touch $@
