# `make demo` and `make test` need git, make and a Python (3.11 or newer) with venv; nothing here but `make system` needs root.
#
# Two environments: .venv holds every pinned dependency and an editable install of the checkout, for work; .venv-wheel borrows the
# dependencies of .venv and holds the wheel, for the tests, which must see what users get.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PYTEST_ARGS ?= -n auto --dist worksteal
TESTS ?= tests

BIN := $(CURDIR)/.venv/bin
WHEEL := .venv-wheel
WHEEL_PYTHON := $(CURDIR)/$(WHEEL)/bin/python
# cwd is never the checkout here: its zoopt/ would hide the installed one
PYTEST := cd $(WHEEL)/run && ZOOPT_TEST_INSTALLED=1 $(WHEEL_PYTHON) -m pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(abspath $(TESTS))
SOURCES := $(shell find zoopt strategies surrogates problems -not -path '*/__pycache__*')  # folders too: a deleted file counts
CHECKED := zoopt strategies surrogates problems tests examples benchmarks docs/hooks.py docs/pictures.py docs/pictures_bo.py tools

.PHONY: help demo test check lint format types imports pytest slow docs bench bench-peers dev system clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make demo     tune a support vector machine on handwritten digits (sets everything up first)"
	@echo "make test     make check, then every test not marked slow or cuda, against the installed wheel; PYTEST_ARGS='-k resume' TESTS=tests/test_study.py"
	@echo "make pytest   the tests alone          make slow   the slow tests"
	@echo "make check    lint, types, imports, documentation      make format"
	@echo "make dev      the environment alone    make docs   the documentation, into site/"
	@echo "make bench    the benchmarks           make clean"
	@echo "make system   (root, Debian) chromium and PostgreSQL for the tests that need them"

demo: dev
	cd examples/digits_svm && $(BIN)/zoopt run study.toml && $(BIN)/python plot.py

test: check pytest

check: lint types imports docs

# ---- environments ----------------------------------------------------------------------------------------------------------------------

dev: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "zoopt needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,postgres]'
	touch $@

# build/ and the egg-info go first: setuptools would take deleted modules from them
$(WHEEL)/.installed: .venv/.installed $(SOURCES)
	rm -rf build/lib build/bdist.* dist zoopt_toolkit.egg-info
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build/lib build/bdist.* zoopt_toolkit.egg-info $(WHEEL)
	$(BIN)/python -m venv --without-pip $(WHEEL)
	cd $(WHEEL) && $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(WHEEL_PYTHON) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	$(BIN)/python -m pip --python $(WHEEL_PYTHON) install --quiet --no-deps --no-index dist/*.whl
	mkdir -p $(WHEEL)/run
	touch $@

# ---- checks ----------------------------------------------------------------------------------------------------------------------------

lint: .venv/.installed
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

format: .venv/.installed
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

types: $(WHEEL)/.installed
	cd $(WHEEL)/run && $(WHEEL_PYTHON) -m mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p zoopt

imports: $(WHEEL)/.installed
	cd $(WHEEL)/run && $(WHEEL_PYTHON) -c "from importlinter.cli import lint_imports_command as c; c()" --config ../../pyproject.toml --no-cache --no-logo

pytest: $(WHEEL)/.installed
	$(PYTEST) -m "not slow and not cuda" $(PYTEST_ARGS)

slow: $(WHEEL)/.installed
	$(PYTEST) -m "slow and not cuda" $(PYTEST_ARGS)

# ---- the rest --------------------------------------------------------------------------------------------------------------------------

bench-peers: .venv/.installed
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement benchmarks/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/peers/beside.txt  # timed in turn with ours, in one process

docs: .venv/.installed
	$(BIN)/python tools/link_tree.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet  # an advertisement

bench: .venv/.installed bench-peers
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

system:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium chromium-driver postgresql strace git

clean:
	rm -rf build dist site .venv .venv-wheel zoopt_toolkit.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
