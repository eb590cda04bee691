.DEFAULT_GOAL := help
PY := .venv/bin/python
.PHONY: help demo test test-compiled wheel nightly sim lint bench serve docs pythons reference openapi fmt lock

help: ## what one can do here
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## set up, then run the main job on a real model (under a minute after the install)
	@scripts/setup demo
	@$(PY) -m tokenworks demo $(ARGS)

test: ## set up, then pass the tests
	@scripts/setup dev
	@$(PY) -m pytest -n 3 --dist loadgroup $(ARGS)

test-compiled: ## compile the data plane and pass its tests on it: gateway, charging, factory and end to end
	@scripts/setup dev
	@TOKENWORKS_COMPILE=1 $(PY) scripts/compile.py
	@TOKENWORKS_COMPILE=1 $(PY) -m pytest -n 3 --dist loadgroup $(or $(TESTS),tests/test_compiled.py tests/gateway tests/charging tests/factory tests/sim tests/e2e) $(ARGS)

wheel: ## a wheel with compiled modules in dist/, for this version of Python and this platform
	@scripts/setup dev
	@TOKENWORKS_COMPILE=1 $(PY) -m hatchling build -t wheel -d dist

nightly: ## at length: the site, other Pythons, many random cases, every free rider for a minute, the clients, kills, years (two hours)
	@scripts/setup dev
	@$(MAKE) docs
	@scripts/pythons
	@$(MAKE) test-compiled
	@$(PY) -m pytest -m 'nightly or heavy' $(ARGS)

sim: ## the charging simulation over many seeds: make sim SEEDS=10000, or SEED=7 for one
	@scripts/setup dev
	@SIM_SEEDS=$(or $(SEEDS),1000) $(if $(SEED),SIM_SEED=$(SEED)) $(PY) -m pytest -n 2 tests/sim

lint: ## ruff, mypy strict, import layers, the tidy test
	@scripts/setup dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports --no-cache

bench: ## ratios against Envoy and sglang-router, and settlement, in one run (minutes)
	@scripts/setup dev
	@scripts/setup-peers
	@$(PY) -m bench $(ARGS)

serve: ## set up, then serve on 127.0.0.1:8080 from ./data
	@scripts/setup run
	@$(PY) -m tokenworks --data-dir data init
	@$(PY) -m tokenworks --data-dir data serve $(ARGS)

docs: ## the documentation as a site, in build/site; a dead link is an error
	@scripts/setup-docs
	@python3 scripts/site build/site-source
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict && echo build/site/index.html

pythons: ## which versions of Python are here, and the unit tests of kernel and catalog with each
	@scripts/setup dev
	@scripts/pythons

reference: ## write docs/REFERENCE.md from the code
	@scripts/setup dev
	@$(PY) -m tokenworks.cli.reference > docs/REFERENCE.md

openapi: ## write docs/openapi.json from the code
	@scripts/setup dev
	@$(PY) -m tokenworks.app.openapi > docs/openapi.json

fmt: ## format and fix what can be fixed
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

lock: ## renew the locks (needs uv)
	@scripts/lock --upgrade
