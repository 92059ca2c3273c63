# What a user and a contributor call; .ci/run and the README call the same. Every target sets up what it needs first, says what
# that is, and finds it in place the next time. Everything goes into .venv and .cache here; nothing is installed in the system.

SHELL = /bin/sh
# What is installed comes first; Debian keeps mosquitto in /usr/sbin; the last holds what the set-up had to unpack.
export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:$(CURDIR)/.cache/debian/bin
JOBS ?= auto
ARGS ?=

.PHONY: help run test crash lint format types bench clean setup-run setup-dev

help:
	@echo 'make run     the demonstration: a local broker, simulated field devices, three functions (Ctrl-C ends it)'
	@echo 'make test    all tests (one file: make test ARGS=tests/unit/test_x.py; one at a time: JOBS=0)'
	@echo 'make crash   2,000 kills of a processor, and what tests/crash has besides'
	@echo 'make lint    ruff: rules and layout        make format   mend what can be mended'
	@echo 'make types   mypy --strict'
	@echo 'make bench   the benchmarks, each beside its peer'
	@echo 'make clean   remove .venv and .cache'

run: setup-run
	@.venv/bin/python examples/demo/run.py $(ARGS)

test: setup-dev
	.venv/bin/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

# Four campaigns of 500 kills each beside a real broker; about 25 minutes.
crash: setup-dev
	KILLS=500 .venv/bin/python -m pytest -n $(JOBS) --timeout 7200 -rP tests/crash $(ARGS)

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

types: setup-dev
	.venv/bin/mypy

bench: setup-dev
	.venv/bin/python -m tests.bench $(ARGS)

clean:
	rm -rf .venv .cache

setup-run:
	@.ci/setup/python-env run
	@.ci/setup/debian-programs mosquitto:mosquitto

setup-dev:
	@.ci/setup/python-env dev
	@.ci/setup/debian-programs mosquitto:mosquitto mosquitto_pub:mosquitto-clients openssl:openssl coap-client-notls:libcoap3-bin wrk:wrk curl:curl
	@.ci/setup/micropython
	@.ci/setup/virtual-machines
