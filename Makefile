SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
HOSTS := $(BIN)/python -m tests.hosts
DEMO := demo
# The longest ones first
SCENARIOS := upgrade default gateway backup alternative
ROUNDS := 10
MINUTES := 20
REQUESTS := 5000
SEED := 1
PART := 1/1
VERB :=
CASES := 16
ANSIBLE :=
OPERATION :=

.PHONY: help
help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 |\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: venv
venv: $(VENV)/.complete ## Make .venv with the locked packages; chromad and chromactl are in .venv/bin

$(VENV)/.complete: daemon/requirements.lock tests/requirements.lock daemon/pyproject.toml daemon/client/pyproject.toml
	python=$$(tests/find-python) && $$python -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r daemon/requirements.lock -r tests/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable daemon --editable daemon/client
	touch $@

.PHONY: up
up: venv ## Boot a throwaway host, install ChromaDB on it with the site playbook, show it (root)
	@$(HOSTS) list | grep -q "^$(DEMO)\s" || $(HOSTS) up $(DEMO) --wheelhouse
	@mkdir -p var && $(HOSTS) inventory $(DEMO) >var/demo.json
	cd ansible && $(BIN)/ansible-playbook -i ../var/demo.json playbooks/site.yml
	$(HOSTS) ssh $(DEMO) sudo systemctl --no-pager --full status chromadb.service
	$(HOSTS) ssh $(DEMO) systemctl --no-pager list-timers chromadb-backup.timer
	@printf '%s\n' '' 'Connect, from this machine:' \
	  "  ssh -F /var/lib/chromad-test/$(DEMO)/ssh_config -N -L 8000:127.0.0.1:8000 $(DEMO) &" \
	  "  $(BIN)/python -c 'import chromadb; print(chromadb.HttpClient(port=8000).heartbeat())'" \
	  'Look around: make ssh. Remove it: make down.'

.PHONY: down
down: venv ## Remove the throwaway host (root)
	$(HOSTS) down $(DEMO)

.PHONY: ssh
ssh: venv ## Open a shell on the throwaway host (root)
	@$(HOSTS) ssh $(DEMO)

.PHONY: run
run: venv ## Run the daemon in the foreground with its data under var/; Ctrl-C flushes and stops
	@mkdir -p -m 0750 var/data var/backups
	@printf '%s\n' 'data_dir: $(CURDIR)/var/data' 'control_socket: $(CURDIR)/var/chromad.sock' \
	  'backup: {repository: $(CURDIR)/var/backups, password_file: $(CURDIR)/var/backup.key}' 'allow_root: true' >var/chromad.yml
	@exec $(BIN)/chromad --config var/chromad.yml

# Hosts mostly wait for themselves, so they boot beside the tests. What failed is said once more at the end.
.PHONY: test
test: venv ## Everything: lint, unit, integration, and the roles on booted systemd hosts (root)
	@rm -f .pytest_cache/failed
	@$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target test-fast $(SCENARIOS:%=molecule-%) || \
	  { cat .pytest_cache/failed 2>&-; exit 1; }

.PHONY: test-fast
test-fast: venv ## Lint, unit and integration tests; needs no root, leaves out what does
	@$(MAKE) --no-print-directory --jobs 1 lint
	$(BIN)/pytest --quiet --numprocesses 2 --dist loadfile --durations 20 tests/unit tests/integration

.PHONY: test-long
test-long: venv ## All cases of those tests of which make test runs another one each day (root)
	CHROMAD_TESTS_DAY=all $(BIN)/pytest --quiet -m one_a_day tests/integration

.PHONY: wild
wild: venv ## Wrong directories of five Chromas: each is adopted right, or refused with a hint
	WILD=all $(BIN)/pytest --quiet --numprocesses 2 tests/integration/test_wild_directories.py

.PHONY: molecule
molecule: $(SCENARIOS:%=molecule-%) ## The roles on booted Debian 12 and 13, all scenarios; ANSIBLE=2.16.0 for another ansible-core (root)

.PHONY: $(SCENARIOS:%=molecule-%)
$(SCENARIOS:%=molecule-%): molecule-%: venv
	@$(if $(ANSIBLE),$(BIN)/python -m tests.ansible_versions $(ANSIBLE) >/dev/null)
	other=$(if $(ANSIBLE),$$($(BIN)/python -m tests.ansible_versions $(ANSIBLE)):) && cd tests && PATH=$$other$(BIN):$$PATH molecule --base-config molecule/base.yml test -s $*

.PHONY: lint
lint: venv ## ruff, mypy --strict, yamllint, ansible-lint, systemd-analyze
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy --no-error-summary
	$(BIN)/yamllint --strict .
	cd ansible && PATH=$(BIN):$$PATH ansible-lint -q
	cd tests && PATH=$(BIN):$$PATH ANSIBLE_ROLES_PATH=../ansible/roles ansible-lint -q --skip-list command-instead-of-module,risky-shell-pipe molecule
	tests/lint-units
	$(BIN)/python -m tests.rights
	$(BIN)/python -m tests.docs --check

.PHONY: docs
docs: venv ## Write the generated tables into the role READMEs and daemon/docs
	$(BIN)/python -m tests.docs

.PHONY: bench
bench: venv ## Measure against stock Chroma, ROUNDS=10 interleaved runs; fails where a promised limit does not hold
	$(BIN)/python -m tests.bench start writes checkpoint recovery operate filters --rounds $(ROUNDS)

.PHONY: bench-gateway
bench-gateway: venv ## Measure what the gateway costs beside the engine alone, also with 10,000 tokens and 100,000 collections (root)
	$(BIN)/python -m tests.bench gateway --rounds $(ROUNDS)

.PHONY: bench-million
bench-million: venv ## Measure filters among 1,000,000 records beside stock Chroma; takes ten minutes
	$(BIN)/python -m tests.bench million --rounds $(ROUNDS)

.PHONY: bench-backup
bench-backup: venv ## Measure backups beside tar and rsync at 10,000 to 1,000,000 vectors; takes hours (root)
	$(BIN)/python -m tests.bench backup --rounds 1

.PHONY: bench-upgrade
bench-upgrade: venv ## Measure how long clients wait while a host with 100,000 records is upgraded (root)
	$(BIN)/python -m tests.upgrade.measure

.PHONY: crash
crash: venv ## Kill the service at all moments that matter, ROUNDS=1000; every acknowledged record must be there (root)
	$(BIN)/python -m tests.crash kill --rounds $(ROUNDS) --seed $(SEED)

.PHONY: crash-power
crash-power: venv ## Cut the power, ROUNDS=200 (root; ext4 on XFS on loop devices)
	$(BIN)/python -m tests.crash power --rounds $(ROUNDS) --seed $(SEED)

.PHONY: crash-full
crash-full: venv ## Fill the disk, ROUNDS=50 (root)
	$(BIN)/python -m tests.crash full --rounds $(ROUNDS) --seed $(SEED)

.PHONY: crash-backup
crash-backup: venv ## Kill backups, drills and restores at random moments, ROUNDS=34 of each (root)
	$(BIN)/python -m tests.crash.backups --rounds $(ROUNDS) --seed $(SEED)

.PHONY: mutants
mutants: venv ## Plant bugs in copies of the tree, BUGS="NAME …" or all; a test has to fail with each (root)
	$(BIN)/python -m tests.mutants $(BUGS)

.PHONY: crash-steps
crash-steps: venv ## Strike every step of OPERATION=… (all without), in parts that add up, PART=1/4 (root for power cuts)
	$(BIN)/python -m tests.crash.steps $(OPERATION) --part $(PART) --seed $(SEED)

.PHONY: interrupts
interrupts: venv ## Interrupt and kill every verb at random moments, ROUNDS=25 of each; the service must be as it was (root)
	$(BIN)/python -m tests.soak.interrupts --rounds $(ROUNDS) --seed $(SEED)

.PHONY: soak-ddl
soak-ddl: venv ## Every verb in turn beside five clients that make, rename, empty and delete collections, MINUTES=20 (root)
	$(BIN)/python -m tests.soak.ddl --minutes $(MINUTES)

.PHONY: chroma-tests
chroma-tests: venv ## Run Chroma's own client tests against the service, directly and through the gateway (root)
	$(BIN)/python -m tests.chroma_tests

.PHONY: attacks
attacks: venv ## Attack root's verbs and playbooks as the service user, SEED=1 PART=1/1 VERB= CASES=16 (0: all) (root)
	$(BIN)/python -m tests.attacks --seed $(SEED) --part $(PART) --verb '$(VERB)' --cases $(CASES)

.PHONY: fuzz
fuzz: venv ## Clients that write Chroma's phrases and control characters wherever they may, REQUESTS=5000
	$(BIN)/python -m tests.soak.fuzz --requests $(REQUESTS) --seed $(SEED)

.PHONY: lock
lock: venv ## Resolve the dependencies anew and write both lock files
	cd daemon && $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --upgrade pyproject.toml -o requirements.lock
	cd tests && $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --upgrade requirements.in -o requirements.lock

.PHONY: clean
clean: ## Remove what make made here; caches in /var/cache/chromad-test and data under var/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible daemon/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
