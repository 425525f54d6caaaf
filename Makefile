# make demo   a first look: install into .venv, instrument a program of this machine, run it, show the report
# make test   everything the project holds itself to: ruff, mypy, the tests
# make matrix realworld mutations   the long runs behind tests' short slices
# make bench  how fast instrumented programs run, beside other tools: build/bench (docs/performance.md)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint packages matrix realworld mutations bench clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell nproc)
PYTEST_ARGS ?=
MATRIX_ARGS ?=
REALWORLD_ARGS ?=
BENCH_ARGS ?=

# What the tests run, by Debian's names, and the command (or file) that each brings.
PACKAGES := gcc:gcc g++:g++ clang:clang lld:ld.lld llvm:llvm-strip rustc:rustc musl-tools:musl-gcc \
	binutils:objdump elfutils:eu-strip valgrind:valgrind gdb:gdb csmith:csmith libcsmith-dev:/usr/include/csmith/csmith.h \
	gzip:gzip xz-utils:xz bzip2:bzip2 gawk:gawk perl:perl openssl:openssl sqlite3:sqlite3 lua5.4:lua5.4 python3-minimal:/usr/bin/python3

help:
	@sed -n 's/^# make/make/p' Makefile

# A fresh interpreter may lack ensurepip (Debian's python3 without python3-venv): --without-pip and pip from outside then.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, " + sys.version.split()[0] + " is " + sys.executable) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3-venv is missing: run apt-get install python3-venv, or set PYTHON to an interpreter that has it" >&2; exit 1; }

$(VENV)/installed: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check .
	@touch $@

$(VENV)/installed-for-tests: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/installed-for-bench: $(VENV)/installed-for-tests
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
	@touch $@

# A filter that every Debian has: the instrumented copy and the original turn the same input into the same output.
DEMO ?= $(firstword $(wildcard /usr/bin/gzip /bin/gzip /usr/bin/sort))
DEMO_ARGS ?= $(if $(findstring gzip,$(DEMO)),-9nc)
DEMO_INPUT ?= $(DEMO)
demo: $(VENV)/installed
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	echo "\$$ probeloom rewrite $(DEMO) -o demo --probe 'block:*' --probe 'entry:*'"; \
	$(BIN)/probeloom rewrite $(DEMO) -o "$$work/demo" --probe 'block:*' --probe 'entry:*'; \
	echo "\$$ PROBELOOM_DATA=demo.data ./demo $(DEMO_ARGS) < $(DEMO_INPUT) > output"; \
	PROBELOOM_DATA="$$work/demo.data" "$$work/demo" $(DEMO_ARGS) < $(DEMO_INPUT) > "$$work/output"; \
	$(DEMO) $(DEMO_ARGS) < $(DEMO_INPUT) | cmp - "$$work/output"; \
	echo "The output equals that of $(DEMO). What it did:"; \
	echo "\$$ probeloom report demo.data --top 20"; \
	$(BIN)/probeloom report "$$work/demo.data" --top 20

# As root, install what is missing; otherwise name it in one line. The tests fail (in CI) or skip with a reason after that.
packages:
	@missing=(); for pair in $(PACKAGES); do command -v "$${pair##*:}" > /dev/null || [ -f "$${pair##*:}" ] || missing+=("$${pair%%:*}"); done; \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then \
	  echo "installing $${missing[*]}"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}" > /dev/null; \
	else \
	  echo "these tests need Debian packages that are not here: apt-get install $${missing[*]}" >&2; \
	fi

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy

test: packages $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

matrix: packages $(VENV)/installed-for-tests
	$(BIN)/python -m tests.matrix --flavours --jobs $(JOBS) $(MATRIX_ARGS)

realworld: packages $(VENV)/installed-for-tests
	$(BIN)/python -m tests.realworld $(REALWORLD_ARGS)

mutations: packages $(VENV)/installed-for-tests
	$(BIN)/python -m tests.elf_mutations --count 2000 --jobs $(JOBS)

bench: packages $(VENV)/installed-for-bench
	$(BIN)/python -m bench --jobs $(JOBS) --output build/bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
