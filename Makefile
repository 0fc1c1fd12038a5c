PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CACHE := $(or $(DEMO_CACHE),.build)

# Without bytecode, each test process and each kbuild that a test starts compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup lint types check test e2e e2e-cluster attacks demo release bench lock clean

# For `make release`. Other options, such as a source or a builder, go into KBUILD_FLAGS or KBUILD_….
ARCHES ?= amd64
CA_YEARS ?= 100
LEAF_YEARS ?= 100
OUTPUT ?= dist/$(VERSION)

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 13

setup: $(READY) ## create .venv with kbuild and everything that its tests need

# LOCK=locks/release.txt installs kbuild and the packages in that file, each wheel by its hash, as the
# workflows do. Without LOCK, pip resolves the version ranges in pyproject.toml, because a user's mirror
# may have other versions or builds than PyPI. --only-binary: no setup.py of a dependency runs.
LOCK ?=

# Before version 25.1, pip does not support dependency groups.
$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  f"kbuild needs Python 3.11 or newer, this is {sys.version.split()[0]}; choose another one with PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot create virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
ifdef LOCK
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
endif
	@touch $@

# --no-cache: with one, lint-imports still sees a module that was renamed.
lint: $(READY) ## formatting, lint, and the import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(READY) ## type checks with mypy
	$(BIN)/mypy

check: lint types ## lint, types and all but the slow tests
	$(BIN)/pytest -n auto --dist worksteal -m "not e2e and not docker and not slow"

MARKS ?= not e2e and not docker
test: $(READY) ## set up, then every test that needs no container engine
	$(BIN)/pytest -n auto --dist worksteal -m "$(MARKS)"

e2e: $(READY) ## tests with a real Kubernetes, engine, registry and git server; root starts an engine if none answers
	$(BIN)/python -m pip install --quiet --group ci
	$(BIN)/python -m tests.support.servers $(BIN)/pytest -p no:xdist -m "(e2e or docker or root) and not cluster" --durations=40

# STORIES="FILE FILE::TEST …" runs some of them.
e2e-cluster: $(READY) ## tests with a real cluster of three control planes and a worker on this machine; needs root and Debian
	$(BIN)/pytest -p no:xdist -m cluster --durations=15 $(STORIES)

attacks: $(READY) ## tests with hostile programs and sources; needs gcc
	$(BIN)/pytest -p no:xdist -m attack --durations=5

# v1.20.2 pins Go 1.15.5, and Debian has 1.15.15. Hence --go-version, which kbuild shows and records.
demo: $(READY) ## build and prove kubeadm v1.20.2 with 100-year certificates, in dist/v1.20.2
	archive=$$($(BIN)/python -m tests.support.debian kubernetes $(CACHE)) && \
	goroot=$$($(BIN)/python -m tests.support.debian golang 1.15 $(CACHE)) && \
	$(BIN)/kbuild kubeadm --version v1.20.2 --ca-years 100 --leaf-years 100 --source "$$archive" \
	  --builder local --go-root "$$goroot" --go-version 1.15.15 --output dist/v1.20.2 --force

unexport KBUILD_FLAGS  # a variable of this file, no setting of kbuild
release: $(READY) ## VERSION=v1.31.2 ARCHES="amd64 arm64" CA_YEARS=100 LEAF_YEARS=100: build, check and (with KEY=) sign a release
	@test -n '$(VERSION)' || { echo 'VERSION is missing, for example: make release VERSION=v1.31.2' >&2; exit 2; }
	$(BIN)/kbuild kubeadm --version '$(VERSION)' $(foreach arch,$(ARCHES),--arch $(arch)) \
	  --ca-years $(CA_YEARS) --leaf-years $(LEAF_YEARS) --output '$(OUTPUT)' $(KBUILD_FLAGS)
	$(if $(KEY),$(BIN)/kbuild sign '$(OUTPUT)' --key '$(KEY)')
	$(BIN)/kbuild check '$(OUTPUT)'

bench: $(READY) ## compare the speed of kbuild with the usual recipes and the compiler; needs rsync and golang-cfssl
	$(BIN)/python -m tests.bench

# --universal: one file for every platform and every Python version that kbuild supports. Existing pins
# stay if they fit pyproject.toml; UV_FLAGS=--upgrade takes the newest versions. A mirror may serve its
# own builds, so review the difference: on PyPI nearly every release has two or more files.
compile = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'make lock' \
  --all-extras --group build $(UV_FLAGS) --output-file locks/$(1).txt

lock: $(READY) ## update locks/*.txt from pyproject.toml; UV_FLAGS=--upgrade for newer versions
	$(BIN)/python -m pip install --quiet --group ci
	$(call compile,dev) --group dev --group ci
	$(call compile,release) --constraint locks/dev.txt

clean: ## remove everything that make and the tests created here
	rm -rf .venv .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
