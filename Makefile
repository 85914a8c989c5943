# `make demo`: install and do the main job on the built-in teachers.  `make test`: install the test extras and run the
# tests of every property.  `make test-all`: those, then the same properties on every family, layout and setting.
# `make docs`: the user's guide, in site/.  `make dist`: a wheel and a source distribution in dist/; the wheel is tried in
# a fresh environment.  Nothing but Python 3.11 or newer and make has to be there.

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
# More arguments for pip, such as an index of CPU builds of torch.
PIP_ARGS ?=
VENV := .venv
INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
PIP := $(VENV)/bin/python $(INSTALL) --no-compile
# Compiled once, here: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE, usual in containers) every command
# would compile torch and transformers again, 12 seconds of CPU. This takes about 25, on all cores; pip would use one, and
# compile the libraries' tests too. A package may ship files that are no Python of this version: no reason to fail here.
COMPILE := $(VENV)/bin/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib compressor || true

# Bytecode of the tests is kept, so that the second call need not rewrite their assertions again.
PYTEST := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/pytest -n 2 --dist worksteal

# The guide is built without --quiet, which would hide the warnings that --strict counts.
.PHONY: demo test test-all docs install dist dist-check clean
.DELETE_ON_ERROR:

demo: install
	$(VENV)/bin/compress fuse --width 0.5 vit-a vit-b -o demo/student --force

test: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	$(PYTEST)

# No test runs twice: what is marked slow is what `make test` leaves out.
test-all: test
	$(PYTEST) -m slow

docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

install: $(VENV)/.installed

dist: $(VENV)/.packaging
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(MAKE) dist-check

# The wheel as a user gets it: alone, in an environment and a folder of its own.
TRIAL := $(VENV)/wheel
dist-check:
	rm -rf $(TRIAL)
	$(PYTHON) -m venv $(TRIAL)/venv
	$(TRIAL)/venv/bin/python $(INSTALL) dist/*.whl
	cd $(TRIAL) && venv/bin/compress --help > /dev/null
	cd $(TRIAL) && COMPRESSOR_CACHE=cache venv/bin/compress fuse --width 0.5 vit-a vit-b -o student
	rm -rf $(TRIAL)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@$(COMPILE)
	@touch $@

$(VENV)/.tested: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	@$(COMPILE)
	@touch $@ $(VENV)/.installed

$(VENV)/.documented: $(VENV)/.installed
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.packaging: constraints.txt | $(VENV)/bin/python
	$(PIP) build
	@touch $@

clean:
	rm -rf $(VENV) demo site dist build
