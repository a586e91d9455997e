# make demo   learn the bundled tale by heart, measure recall, sample
# make test   lint, then run all tests but the slow ones
# make test-slow   run the slow ones: real servers under attack, a browser, an installation by pip
# make lint   run ruff alone
# make peers  compare an exported model in transformers and llama.cpp with ours
# make chaos  test kills, full disks, damaged files and a long run; takes about 40 minutes
# make gpu    test and measure on one GPU, with what is installed: no network is needed; without a GPU, a dry run
# Each other one creates .venv and installs into it if needed; only Python 3.11 or newer and a package registry are required.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

REFUSALS := tests/test_bad_input.py tests/storage tests/text/test_dataset.py tests/text/test_inputs.py -m "not slow" \
  -W ignore::pytest.PytestConfigWarning

.PHONY: demo test test-slow lint chaos gpu peers

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version}; type make PYTHON=python3.12")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
# the package was installed under the name llm until November 2026; both would own the import
	if $(PIP) list --editable --format=freeze | grep -q '^llm=='; then $(PIP) uninstall --quiet --yes llm; fi
	$(PIP) install --quiet -c constraints.txt -e ".[books]"
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) install --quiet -c constraints.txt -e ".[dev,books,corpora,plot,serve,hf,gguf]"
	touch $@

demo: .venv/installed
	cd llm && ../$(BIN)/python learn.py data/tale/tale.txt
	@echo
	cd llm && ../$(BIN)/python sample.py --out_dir=out-tale --start="Ibbet reached across" --temperature=0 --max_new_tokens=150
	@echo
	@echo "next, to use the scripts yourself: source .venv/bin/activate && cd llm"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses=4 --dist=worksteal

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -q -m slow -n auto --maxprocesses=4 --dist=worksteal
# without asserts: no input may be checked by one
	PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=4 $(REFUSALS)

chaos: .venv/installed-dev
	$(BIN)/python tests/chaos.py

gpu:
	PYTHONPATH="$(CURDIR)" $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu.py

peers: .venv/installed-dev
	$(PIP) install --quiet -c constraints.txt -e ".[peers]"
	$(BIN)/python tests/peers.py
