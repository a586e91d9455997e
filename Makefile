# make demo   the bundled tale: prepare, learn by heart, measure recall, sample
# make test   lint and all tests
# make lint   ruff alone
# make peers  what transformers and llama.cpp say when they run an exported model, beside ours
# make chaos  what no quick test can show: kills, full disks, damaged files, a long run; some 40 minutes
# Each makes .venv and installs into it when needed; nothing but Python 3.11 or newer and a package registry is required.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint chaos peers

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version}; type make PYTHON=python3.12")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,plot,serve,hf,gguf]"
	touch $@

demo: .venv/installed
	cd llm && ../$(BIN)/python data/tale/prepare.py
	cd llm && ../$(BIN)/python train.py config/train_tale.py
	cd llm && ../$(BIN)/python recall.py --out_dir=out-tale
	cd llm && ../$(BIN)/python sample.py --out_dir=out-tale --start="Keep your finger on" --temperature=0 --max_new_tokens=150

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist=worksteal

chaos: .venv/installed-dev
	$(BIN)/python tests/chaos.py

peers: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[peers]"
	$(BIN)/python tests/peers.py
