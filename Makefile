# Everything happens in a virtual environment of its own: nothing but Python and make is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
MEMORY ?= database
TRACE ?=

.PHONY: help demo serve screenshots test coverage bench lint format clean

help:
	@echo "make demo      drive orders through a workflow while workers are killed; ARGS='--orders 500 --kill 10'"
	@echo "               MEMORY=redis keeps the machines in Redis: at REDIS_URL, or on a server of its own"
	@echo "               TRACE=1 shows the trace of one more order as a tree"
	@echo "make serve     show the admin, with a login and with workers that hold orders; ARGS='--port 8001'"
	@echo "               TRACE=1 prints the spans of its requests, or sends them to OTEL_EXPORTER_OTLP_ENDPOINT"
	@echo "make test      run the tests on every database that is there; ARGS='-k lease'"
	@echo "make coverage  the same, and measure branch coverage"
	@echo "make bench     measure side by side with drivers and peers, in five minutes; ARGS='--large'"
	@echo "make lint      check style, types and migrations"
	@echo "make screenshots"
	@echo "               take the pictures of the admin anew, with chromium and chromedriver"

demo: $(VENV)/$(if $(TRACE),trace,demo)
	MEMORY=$(MEMORY) TRACE=$(TRACE) $(BIN)/python manage.py demo $(ARGS)

serve: $(VENV)/$(if $(TRACE),trace,demo)
	TRACE=$(TRACE) $(BIN)/python manage.py serve $(ARGS)

screenshots: $(VENV)/test
	$(BIN)/python -m example_project.screenshots

test: $(VENV)/test
	$(BIN)/python -m pytest $(ARGS)

coverage: $(VENV)/test
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage report

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --json benchmarks/results.json --markdown benchmarks/results.md $(ARGS)

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[example]'
	@touch $@

$(VENV)/trace: $(VENV)/demo
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[trace]'
	@touch $@

$(VENV)/test: $(VENV)/demo pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[example,lint,postgresql,test,trace]'
	@# It is compiled here, which takes the headers of MariaDB or MySQL; the tests say so where it is missing.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mysql]' >$(VENV)/mysql.log 2>&1 || \
		echo "mysqlclient could not be installed ($(VENV)/mysql.log): MariaDB will not be tested."
	@touch $@

$(VENV)/bench: $(VENV)/test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
