# `make` alone prints the targets. What a target needs is installed by tools/setup.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-bench demo test test-rgw test-large check fix unit fuzz faults \
	tokens crash soak bench clean

PYTHON := .venv/bin/python

help:  ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Install libfuse, fusermount and a virtual environment with allasfs in .venv
	@tools/setup

setup-test:
	@tools/setup test

demo: setup  ## Do the main job on a real Swift and Keystone on loopback, and check every byte
	@tools/demo

# The model draws operations also from what is in the modules that are loaded: on its own it draws
# the same ones on every computer.
test: setup-test check  ## Pass all tests: unit, contract, real Swift, real Ceph RGW, real mount
	$(PYTHON) -m pytest tests/model
	$(PYTHON) -m pytest --ignore=tests/model

test-rgw: setup-test  ## Run only the tests on a real Ceph RADOS Gateway, which is what Allas is
	$(PYTHON) -m pytest -m rgw

check: setup  ## Check formats, lint and types; changes nothing
	$(PYTHON) -m ruff format --check allasfs tests bench
	$(PYTHON) -m ruff check allasfs tests bench
	$(PYTHON) -m mypy

fix: setup  ## Format, and mend what the linter can
	$(PYTHON) -m ruff check --fix allasfs tests bench
	$(PYTHON) -m ruff format allasfs tests bench

unit: setup  ## Run only the tests that need neither Swift nor a mount
	$(PYTHON) -m pytest tests/unit tests/behaviour -m 'not swift and not rgw and not mount'

# Random runs of each state machine: 5000 take about half an hour on one core.
RUNS := 5000
# Then random system calls on a mount, for so many seconds.
SECONDS := 600
fuzz: setup-test  ## Compare RUNS= random runs with the model, SECONDS= of system calls with a directory
	HYPOTHESIS_PROFILE=long MODEL_FUZZ_RUNS=$(RUNS) $(PYTHON) -m pytest tests/model \
		-o faulthandler_timeout=0
	FUZZ=$(SECONDS) $(PYTHON) -m pytest tests/oracle/test_random_calls.py

test-large: setup-test  ## Test files of gigabytes: 2 GiB through 256 MiB, 6 GiB, 200 kills
	ALLASFS_LARGE=1 ALLASFS_KILL_TRIALS=200 $(PYTHON) -m pytest -s tests/mount/test_large.py

# So many cases of each operation, 0: all, more than 8,000; another seed draws others.
CASES := 0
SEED := 1
faults: setup-test  ## Let every operation meet every fault of network and server: CASES=, SEED=
	FAULT_CASES=$(CASES) FAULT_SEED=$(SEED) $(PYTHON) -m pytest tests/faults -o timeout=0 \
		-o faulthandler_timeout=0

TOKEN_SECONDS := 600
tokens: setup-test  ## Work for TOKEN_SECONDS= on tokens that live for 20 seconds
	TOKEN_SECONDS=$(TOKEN_SECONDS) $(PYTHON) -m pytest -s tests/faults/test_tokens.py -o timeout=0 \
		-o faulthandler_timeout=0

# A thousand kills take about an hour.
TRIALS := 500
crash: setup-test  ## Kill mounts under a mixed load, TRIALS= times with and without write-back
	CRASH_TRIALS=$(TRIALS) CRASH_SEED=$(SEED) $(PYTHON) -m pytest -s tests/crash -o timeout=0 \
		-o faulthandler_timeout=0

MINUTES := 60
soak: setup-test  ## Work for MINUTES= while network and servers fail at random and tokens expire: SEED=
	SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) SOAK_REPORT=soak.jsonl $(PYTHON) -m pytest -s tests/soak \
		-o timeout=0 -o faulthandler_timeout=0

setup-bench:
	@tools/setup bench

# Lists with commas; empty: all. SCALE=0.05 tries it with smaller amounts. What an interrupted run
# has measured is not measured again, unless FRESH=1. What takes long is measured less often than
# RUNS; a larger PATIENCE (seconds of one measurement) lets it be measured more often.
TASKS :=
LINES :=
CLIENTS :=
SCALE := 1
FRESH :=
PATIENCE := 2
NOTE :=
bench: RUNS := 5
bench: setup-bench  ## Measure beside rclone, s3fs and curl, for hours: TASKS=, LINES=, CLIENTS=, RUNS=
	$(PYTHON) -m bench --tasks '$(TASKS)' --lines '$(LINES)' --clients '$(CLIENTS)' \
		--runs $(RUNS) --scale $(SCALE) --patience $(PATIENCE) \
		--note '$(NOTE)' $(if $(FRESH),--fresh)

clean:  ## Remove what the targets made
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
