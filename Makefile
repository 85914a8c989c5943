# `make demo`: install and do the main job on the built-in teachers.  `make test`: install the test extras and run the
# tests.  `make docs`: the user's guide, in site/.  Nothing but Python 3.11 or newer and make has to be there.

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
# More arguments for pip, such as an index of CPU builds of torch.
PIP_ARGS ?=
VENV := .venv
# Python compiles what it imports by itself; pip would compile all of torch and transformers.
PIP := $(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

# The guide is built without --quiet, which would hide the warnings that --strict counts.
.PHONY: demo test docs install clean
.DELETE_ON_ERROR:

demo: install
	$(VENV)/bin/compress fuse --width 0.5 vit-a vit-b -o demo/student --force

test: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	$(VENV)/bin/pytest -n 2 --dist worksteal

docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

install: $(VENV)/.installed

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/.tested: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.documented: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) demo site
