# audit_ext: everything a newcomer or a CI machine calls. Details are in scripts/.
#
#   PG_CONFIG         the server to build for and install into  (/usr/lib/postgresql/15/bin/pg_config)
#   CARGO_TARGET_DIR  where builds and the scratch cluster go   (target)

.DEFAULT_GOAL := help
.PHONY: help setup install run stop test soak test-majors test-checked test-memory test-upgrade test-postgres lint instructions microbench bench bench-quick bench-growth bench-sampled bench-lines bench-trail clean
MAKEFLAGS += --no-print-directory

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-13s %s\n", $$1, $$2 }'

run: ## build, install, start a scratch cluster, play an example and show audit.log
	@scripts/run.sh

stop: ## stop the scratch cluster
	@scripts/stop.sh

setup: ## install what is missing: Debian packages, cargo-pgrx
	@scripts/setup.sh

install: ## release build, installed into the server of PG_CONFIG
	@scripts/install.sh

test: ## every test: pure part, loom, real clusters
	@scripts/test.sh

soak: ## each fault many times (SOAK=50), then a mixed run of kills (MINUTES=10): 25 minutes and more
	@scripts/install.sh
	@scripts/soak.sh

test-majors: ## the main-job test on real servers 16 and 18
	@scripts/test-majors.sh

test-checked: ## the tests on real clusters against a build that checks each debug_assert!
	@scripts/test-checked.sh

test-memory: ## a session of a million mixed statements holds no more than one of the plain server: ten minutes
	@scripts/install.sh
	@AUDIT_TEST_STATEMENTS=1000000 AUDIT_TEST_PG_CONFIG="$${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}" \
		cargo test -p audit_cluster_tests -- --nocapture memory::a_long_session

test-upgrade: ## pg_upgrade from PG_CONFIG's major to 16 and 18: the trail is carried, and verifies
	@scripts/test-upgrade.sh

test-postgres: ## PostgreSQL's own regression suite, with and without audit_ext: same output
	@scripts/install.sh
	@scripts/test-postgres.sh

instructions: ## instructions per statement, counted on a real server under valgrind (ACCEPT=1: the new figures to hold)
	@scripts/install.sh
	@scripts/instructions.sh $(if $(ACCEPT),--accept)

bench-quick: ## speed against the plain server and pgaudit: two workloads, four configurations, three minutes
	@scripts/install.sh
	@scripts/bench.sh --quick

bench: ## the whole table of docs/performance.md, 11 rounds: 75 minutes
	@scripts/install.sh
	@scripts/bench.sh

bench-growth: ## whether an event costs the same with more clients, texts, tables and a trail of 10 million: half an hour
	@scripts/install.sh
	@scripts/bench-growth.sh

bench-lines: ## instructions, lines of the processor's cache and pages of audit_ext.so that a SELECT touches
	@scripts/install.sh
	@scripts/bench-lines.sh

bench-sampled: ## ns that a session spends in audit_ext.so for a statement, sampled by perf: five minutes
	@scripts/install.sh
	@scripts/bench-sampled.sh

microbench: ## ns per phase of an event, without a server: texts, redaction, encoding, ring (p99.99), hashing
	@cargo bench -q -p audit_core_tests --bench phases

bench-trail: ## a trail of 10 million events (N=…) over ten days: questions, verify, proofs, sizes: 3 to 20 minutes
	@scripts/install.sh
	@scripts/bench-trail.sh --events $(or $(N),10000000)

lint: ## rustfmt, clippy, type-check for PostgreSQL 14 to 18, rules of structure
	@scripts/lint.sh

clean: ## remove builds and the scratch cluster
	@scripts/clean.sh
