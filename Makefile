# One line a verb, each calling the real tool. PYTHON names the interpreter of your environment.
PYTHON ?= python3
.PHONY: build test check bench asan tsan

build: ; $(PYTHON) setup.py -q build_ext --inplace
test: ; $(PYTHON) -m pytest
check: ; PYTHON=$(PYTHON) .ci/check
bench: ; $(PYTHON) -m pytest benches
tsan: ; ANNAPY_PROFILE=long $(PYTHON) -m pytest tests/race/test_tsan.py
asan: ; ANNAPY_PROFILE=long $(PYTHON) -m pytest tests/race/test_asan.py
