# Everything a developer does here, one target each; `make` alone lists them.

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
TOOLS   := .tools
BUF     := $(TOOLS)/node_modules/.bin/buf
BUF_VERSION := 1.75.0
AZURITE := $(TOOLS)/azurite/node_modules/.bin/azurite-blob
AZURITE_VERSION := 3.35.0
STAMP   := $(VENV)/.installed
GENERATED := sdk/cdir/v1
PROTOS  := $(wildcard protos/cdir/v1/*.proto)
# The tests of one file stay together on one worker, so that each server is started once.
PYTEST  := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=15

# Compiled modules make every command start faster; some build machines forbid writing them by default.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

##@ Use

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) servers ## Make .venv with everything pinned, and install the servers that the tests start.

.PHONY: demo
demo: $(STAMP) ## Show the whole thing on three local folders, then clean up.
	$(BIN)/cdir demo

.PHONY: serve-split
serve-split: $(STAMP) ## Run every service as its own process, on PostgreSQL, until Ctrl-C.
	exec $(BIN)/python -m cdir_split

##@ Check

.PHONY: test
test: setup ## Run every test but the slow ones; say what could not be tested here.
	@status=0; $(PYTEST) -m "not slow" || status=$$?; $(BIN)/python tests/missing.py || status=$$?; exit $$status

.PHONY: system
system: setup ## Run the tests that drive the command line, on both deployments.
	$(PYTEST) -m "not slow" tests/system

.PHONY: faults
faults: setup ## Run the tests that kill, cut, corrupt and fill things.
	$(PYTEST) -m "not slow" tests/faults

.PHONY: conformance
conformance: slow-servers ## Run the suites that every adapter and both databases must pass, on every server; print a table of kinds and cases.
	CDIR_CONFORMANCE_TABLE=1 $(PYTEST) tests/conformance

.PHONY: crash
crash: setup ## Kill both deployments at every named point, and 50 times at random.
	CDIR_TEST_CRASH=all CDIR_TEST_KILLS=50 $(PYTEST) --timeout=3600 tests/faults/test_crash_points.py tests/faults/test_kill.py

.PHONY: crash-1000
crash-1000: setup ## Kill the deployments 1000 times at random moments; takes hours.
	CDIR_TEST_KILLS=500 $(PYTEST) --timeout=40000 tests/faults/test_kill.py

.PHONY: sim
sim: $(STAMP) ## Run 10 000 simulated scenarios; SEED=N begins elsewhere, COUNT=N runs more or fewer.
	cd tests && ../$(BIN)/python -m simulation --jobs=2 --seed=$(or $(SEED),1) --count=$(or $(COUNT),10000)

.PHONY: slow
slow: slow-servers ## Run what takes minutes too: the fault matrix, crash points, simulation, the whole standard library, 8 GiB files.
	CDIR_TEST_COLD_COMMANDS=1 CDIR_TEST_WHOLE_LIBRARY=1 CDIR_TEST_HUGE=1 $(PYTEST) --timeout=3600 tests/system tests/faults tests/simulation tests/conformance

.PHONY: lint
lint: setup ## Check style, types, the borders between packages, the protos, and that generated code is current.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy sdk services tests bench
	$(BIN)/lint-imports
	$(BIN)/python docs/reference.py --check
	@$(MAKE) --no-print-directory lint-protos

.PHONY: docs
docs: $(STAMP) ## Write the reference pages that follow from the code.
	$(BIN)/python docs/reference.py

.PHONY: lint-protos
lint-protos: $(STAMP)
	@if [ -x $(BUF) ]; then \
		echo "$(BUF) lint"; $(BUF) lint; \
	elif [ "$${CI:-}" = true ]; then \
		echo "buf is missing: install Node.js with npm, then run make setup" >&2; exit 1; \
	else \
		echo "notice: protos not linted, buf needs Node.js with npm"; \
	fi
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
		$(MAKE) --no-print-directory --silent generate OUT="$$fresh" && \
		for file in "$$fresh"/cdir/v1/*; do \
			diff -u "$(GENERATED)/$${file##*/}" "$$file" \
				|| { echo "generated code is not current: run make proto" >&2; exit 1; }; \
		done && echo "generated code is current"

##@ Change

.PHONY: fmt
fmt: $(STAMP) ## Format the code and mend what can be mended by itself.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: proto
proto: $(STAMP) ## Generate the Python code of the protos anew.
	@$(MAKE) --no-print-directory generate OUT=sdk

# Files of messages alone have no stubs; the generator writes empty ones.
.PHONY: generate
generate:
	PATH="$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
		--python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	rm -f $(foreach name,catalog_recovery check entry exit provider scan scrub,$(OUT)/cdir/v1/$(name)_pb2_grpc.py*)

.PHONY: lock
lock: ## Choose the newest packages that pyproject.toml allows, and pin them in requirements.lock.
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && \
		$(PYTHON) -m venv "$$made/venv" && "$$made/venv/bin/pip" install --quiet uv && \
		"$$made/venv/bin/uv" pip compile --quiet --upgrade pyproject.toml --extra all --extra testing --group dev \
			--python-version 3.11 --no-emit-index-url --no-annotate --no-header --output-file "$$made/lock" && \
		{ sed -n 1p requirements.lock; cat "$$made/lock"; } > "$$made/new" && cp "$$made/new" requirements.lock

##@ Measure

.PHONY: bench
bench: ## Measure beside rclone over an emulated network; write docs/benchmarks.md and bench/baseline.json.
	@$(MAKE) --no-print-directory bench-wan ARGS="--write $(ARGS)"

.PHONY: bench-wan
bench-wan: $(STAMP) ## The same or a part of it, such as ARGS="--only P1,P2 --repeats 3"; writes nothing.
	PYTHONPATH=tests:bench $(BIN)/python -m wan $(ARGS)

.PHONY: bench-small
bench-small: $(STAMP) ## Many small files and one large one, beside rclone.
	PYTHONPATH=tests $(BIN)/python bench/small.py $(ARGS)

.PHONY: bench-size
bench-size: $(STAMP) ## The same calls on catalogs of a thousand to a million entries, on both databases.
	PYTHONPATH=tests $(BIN)/python bench/size.py $(ARGS)

.PHONY: bench-kinds
bench-kinds: $(STAMP) ## Processor time of a small put and get for every kind, beside rclone.
	PYTHONPATH=tests $(BIN)/python bench/kind_cost.py $(ARGS)

.PHONY: bench-tail
bench-tail: $(STAMP) ## The slowest of many small reads, simulated.
	PYTHONPATH=tests $(BIN)/python bench/tail.py $(ARGS)

.PHONY: bench-namespace
bench-namespace: $(STAMP) ## Operations a second on a tree of 12 440 names, beside rclone's daemon.
	PYTHONPATH=tests $(BIN)/python bench/namespace.py $(ARGS)

.PHONY: bench-startup
bench-startup: $(STAMP) ## What starting a command costs.
	PYTHONPATH=tests $(BIN)/python bench/startup.py $(ARGS)

##@ Install

$(STAMP): requirements.lock pyproject.toml
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Debian's packages, only as root and only what is missing; elsewhere tests/missing.py says what to install.
.PHONY: servers
servers:
	@wanted=""; \
	PATH="$$PATH:/usr/sbin:/sbin"; \
	command -v sshd >/dev/null || wanted="$$wanted openssh-server"; \
	command -v apache2 >/dev/null || wanted="$$wanted apache2-bin"; \
	command -v memcached >/dev/null || wanted="$$wanted memcached"; \
	command -v vsftpd >/dev/null || wanted="$$wanted vsftpd"; \
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || wanted="$$wanted postgresql"; \
	if [ -n "$$wanted" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$wanted"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$wanted >/dev/null; \
	fi
	@if [ ! -x $(BUF) ] && command -v npm >/dev/null; then \
		mkdir -p $(TOOLS) && npm install --silent --no-audit --no-fund --no-save --prefix $(TOOLS) @bufbuild/buf@$(BUF_VERSION) \
			|| echo "notice: buf could not be installed"; \
	fi
# in a folder of its own: npm removes what it was not told to keep
	@if [ ! -x $(AZURITE) ] && command -v npm >/dev/null; then \
		mkdir -p $(TOOLS)/azurite && npm install --silent --no-audit --no-fund --no-save --ignore-scripts \
			--prefix $(TOOLS)/azurite azurite@$(AZURITE_VERSION) || echo "notice: azurite could not be installed"; \
	fi

# What only slow tests start.
.PHONY: slow-servers
slow-servers: setup
	@if ! command -v radosgw >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Ceph"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			ceph-mon ceph-osd radosgw ceph-common >/dev/null; \
	fi
	@if ! command -v gnome-keyring-daemon >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing a keyring"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			dbus gnome-keyring >/dev/null; \
	fi

.PHONY: clean
clean: ## Remove what was installed and made here, but no data of cdir.
	rm -rf $(VENV) $(TOOLS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
