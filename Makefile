# Everything a fresh machine needs: `make demo` runs the main job, `make test` the tests; both set up first.

SHELL := /bin/bash
BIN := .venv/bin
# The tests start many processes, which would compile this package again and again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-local test-cluster nightly matrix lint docs wheel
.NOTPARALLEL:

help:
	@echo "make demo     set up, then record, prepare, pre-train, fine-tune, evaluate and report on 2 CPU cores: runs/demo/"
	@echo "make test     set up, then run the tests that need no GPU: minutes on 2 CPU cores"
	@echo "make nightly  set up, then run the tests that take long and rarely fail: docs/results/nightly.txt"
	@echo "make matrix   the tests of one process with every Python that is installed: 3.11, 3.12, 3.13"
	@echo "make lint     set up, then ruff and mypy"
	@echo "make docs     set up, then build the documentation as a site: build/site/index.html"
	@echo "make wheel    set up, then build sources and wheel, which clusters install: dist/"
	@echo "make setup    create or update .venv, check headless rendering"

setup: .venv/rendering.stamp

# The virtual environment, made or brought up to date only when these two files say so.
.venv/install.stamp: pyproject.toml constraints.txt
	@set -e; \
	python=; \
	for name in python3.11 python3.12 python3.13 python3; do \
		$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && python=$$name && break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "error: no Python 3.11 to 3.13 found; install one, for example: sudo apt-get install python3 python3-venv" >&2; exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "error: $$python cannot create virtual environments; run: sudo apt-get install $$python-venv" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "Creating .venv with $$($$python --version)"; $$python -m venv --clear .venv; \
	fi; \
	echo "Installing the tested versions into .venv (minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# Checked once per environment; a failure names the packages to install and is checked again next time.
.venv/rendering.stamp: .venv/install.stamp
	@$(BIN)/python -m prelar_ray doctor --only rendering
	@touch $@

demo: setup
	$(BIN)/python -m prelar_ray demo

# Those that start a Ray run one after another, for they watch the machine's processes; the others run beside them.
test: setup
	@log=$$(mktemp) && trap 'rm -f $$log' EXIT; \
	$(MAKE) --no-print-directory test-cluster >$$log 2>&1 & cluster=$$!; \
	$(MAKE) --no-print-directory test-local; status=$$?; \
	wait $$cluster || status=$$?; cat $$log; exit $$status

test-local: setup
	$(BIN)/python -m pytest -n 2 --durations=25 -m "not gpu and not nightly and not cluster"

test-cluster: setup
	$(BIN)/python -m pytest --durations=25 -m "not gpu and not nightly and cluster"

# The file under docs/results/ is of the last full run.
nightly: setup
	@set -o pipefail; { \
		git log -1 --format='commit %h of %cs' && \
		$(BIN)/python -m pytest --no-header --durations=0 --durations-min=1 -m "nightly and not gpu"; \
	} 2>&1 | tee docs/results/nightly.txt

# PYTHONS="python3.12" chooses. Each gets an environment of its own, build/matrix/python3.12.
PYTHONS ?= python3.11 python3.12 python3.13
matrix:
	@failed=; \
	for python in $(PYTHONS); do \
		command -v $$python >/dev/null || { echo "$$python: not installed, left out"; continue; }; \
		folder=build/matrix/$$python; \
		$$python -m venv $$folder && \
		$$folder/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]' && \
		$$folder/bin/python -m pytest -n 2 -q -m "not gpu and not nightly and not cluster" || failed="$$failed $$python"; \
	done; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Any warning, such as a link that leads nowhere, is an error. Nothing is read from the network.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html; its search needs a server: python3 -m http.server --directory build/site"

# Sources, and the wheel that clusters install: `ray up` copies dist/. The version says the commit, so that runs do, and
# what was changed since by a digest, so that no two packages look alike.
wheel: setup
	@rm -rf dist build/lib && mkdir -p build
	@commit=$$(git describe --always --dirty=.dirty --abbrev=12 --exclude='*' 2>/dev/null) || commit=; \
	case $$commit in *.dirty) commit=$$commit.d$$(git diff HEAD | sha256sum | cut -c1-8);; esac; \
	$(BIN)/python -m build --outdir dist \
		-C--global-option=egg_info -C--global-option=--tag-build="$${commit:++g$$commit}" . >build/wheel.log 2>&1 || \
		{ cat build/wheel.log >&2; exit 1; }
	@rm -rf prelar_ray.egg-info  # would tell whoever runs from here that version, also after further commits
	@cp constraints.txt cluster/install.sh cluster/start.sh dist/
	@cd dist && ls *.whl > package.txt
	@ls -sh dist/prelar_ray-*
