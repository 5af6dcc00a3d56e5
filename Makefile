# Two commands: `make demo` shows the main job, `make test` passes everything. Nothing is needed before them but Rust, a C++
# compiler and Debian's packages, which `.ci/setup` installs (it says what, and asks when a person is at the terminal).
#
#   make demo            boot three hosts, push apps, kill a host, and leave the cluster running
#   make demo ONCE=1     the same, then stop it all; fails if anything fell short; writes target/demo.json
#   make stop            stop the cluster that `make demo` left running
#   make test            install and start what the tests need, run everything
#   make check           formatting, lints, documentation, import directions
#   make bench           run the benches side by side with their peers (BENCH=router for one); writes target/bench/*.json

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/flynn
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# Links the RocksDB that .ci/rocksdb compiled once, unless the caller brought one.
ROCKSDB = export ROCKSDB_LIB_DIR="$${ROCKSDB_LIB_DIR:-$$(.ci/rocksdb '$(CACHE)/rocksdb')}" ROCKSDB_STATIC=1
# The platform, sdutil and the jobs' shim.
BUILD = cargo build --locked -p flynn-distribution -p flynn-sdutil -p flynn-host --features flynn-host/process
STARTED = export FLYNN_BUILD_STARTED=$$(date +%s.%N)

.PHONY: help demo stop test check bench build clean
help:
	@sed -n 's/^#   //p' Makefile

build:
	@.ci/setup build
	@$(ROCKSDB); echo "build: compiling the platform's binaries"; $(BUILD)

demo:
	@.ci/setup build demo
	@$(STARTED); $(ROCKSDB); \
	echo "demo: compiling the platform's binaries"; $(BUILD); \
	export FLYNN_BUILD_FINISHED=$$(date +%s.%N); \
	exec "$$CARGO_TARGET_DIR/debug/flynn-demo" $(if $(ONCE),--once) --apps examples/apps --buildpacks flynn-receive/buildpacks --table target/demo.json

stop:
	@exec "$$CARGO_TARGET_DIR/debug/flynn-demo" --stop

test:
	@.ci/setup build demo test
	@$(ROCKSDB); \
	echo "test: compiling"; cargo test --locked --workspace --exclude flynn-benches --all-features --no-run; \
	echo "test: running"; FLYNN_TEST_REQUIRE=$${FLYNN_TEST_REQUIRE:-redis,nginx,git,ssh,python,node} \
	    cargo test --locked --workspace --exclude flynn-benches --all-features --no-fail-fast

check:
	@.ci/setup build
	@$(ROCKSDB); .ci/check

bench:
	@.ci/setup build bench
	@$(ROCKSDB); cargo bench --locked -p flynn-benches $(if $(BENCH),--bench $(BENCH))

clean:
	cargo clean
