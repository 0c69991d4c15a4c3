# Python 3.11 or 3.12 and make are all that a fresh clone needs. `make` alone lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
CASES ?= 10000
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-fast fuzz lint format docs page benchmark benchmark-inference viz serve image runs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with pinned dependencies

$(INSTALLED): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo 'Error: Python 3.11 or 3.12 is needed; name it with make PYTHON=...'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.txt
	@# PyTorch comes with the project: its builds for a CPU and for CUDA have other hashes and dependencies.
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $@

lock: install  ## pin what pyproject.toml needs in requirements.txt; UPGRADE=--upgrade for newer versions of all
	$(BIN)/uv pip compile pyproject.toml --all-extras --output-file requirements.txt $(UPGRADE) --quiet \
		--generate-hashes --no-annotate --no-emit-package torch --custom-compile-command 'make lock' \
		--python-version 3.11 --python-platform linux

demo: install  ## run the whole project on a synthetic cohort, offline
	$(BIN)/python -m brain_mri_segmentation.cohort.phantom data/demo/01_raw
	$(BIN)/kedro run --env demo
	@echo
	@echo 'Trained and scored on synthetic phantoms; this says nothing about real patients.'
	@echo 'Scores:   data/demo/08_reporting/unet_efficientnet/metrics.json'
	@echo 'Plots:    data/demo/08_reporting/unet_efficientnet/*.png'
	@echo 'Pipeline: .venv/bin/kedro viz --env demo     Runs: make runs'

test: install  ## run all tests; they must run 90 % of the lines
	$(BIN)/pytest --numprocesses logical --dist loadfile --cov

test-fast: install  ## run all but the slow tests, in under three minutes
	$(BIN)/pytest --numprocesses logical --dist loadfile -m 'not slow'

fuzz: install  ## try 10,000 changed files of each kind, and as many requests; CASES=100 for fewer
	FUZZ_CASES=$(CASES) $(BIN)/pytest tests/imaging/test_fuzz.py tests/serving/test_openapi.py --numprocesses logical

lint: install  ## check style, formatting, types, imports and spelling
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files

format: install  ## fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: install  ## build the documentation, site/index.html, and the pipelines' graph, site/viz
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	rm -rf build  # previews are of the demo, as far as it has run
	KEDRO_ENV=demo $(BIN)/kedro viz build --include-previews
	sed -i.web '/fonts\.g[a-z]*\.com/d' build/*.html && rm build/*.web
	mv build site/viz

page:  ## bundle what the page takes from npm (NiiVue), after a change in frontend/
	cd frontend && npm ci --ignore-scripts --no-audit --no-fund && npm run build

benchmark: install  ## compare training with a bare PyTorch loop
	$(BIN)/python benchmarks/train_throughput.py

benchmark-inference: install  ## compare the engines that segment slices
	$(BIN)/python benchmarks/inference.py

viz: install  ## show the pipelines in the browser
	$(BIN)/kedro viz

serve: install  ## serve the model on http://127.0.0.1:8000; PORT=8123 for another port
	UVICORN_PORT=$(PORT) $(BIN)/python -m brain_mri_segmentation.serving

image: install  ## build the serving image without Docker, and post a slice to it (as root)
	$(BIN)/python scripts/build_image.py || [ $$? = 77 ]

runs: install  ## show runs, metrics and plots in the browser (MLflow)
	$(BIN)/kedro mlflow ui

clean:  ## remove the virtual environment and caches; data and runs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache site src/*.egg-info
