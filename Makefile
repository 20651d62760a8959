# One line a verb, each calling the real tool. PYTHON names the interpreter of your environment.
PYTHON ?= python3
.PHONY: build test check bench

build: ; $(PYTHON) setup.py -q build_ext --inplace
test: ; $(PYTHON) -m pytest
check: ; PYTHON=$(PYTHON) .ci/check
bench: ; $(PYTHON) -m pytest benches
