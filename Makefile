# What people and CI run. `make` alone says what there is.

CARGO ?= cargo
# Where cargo builds, wherever the user has put it.
TARGET_DIR = $(shell $(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

.PHONY: help demo test check bench

help:
	@echo 'make demo    build, run two tenants with the same addresses on two hosts, print who reaches whom'
	@echo 'make test    every test: unit, property, simulation, and end to end in network namespaces (root)'
	@echo 'make check   format, clippy, docs, licenses and versions of crates, import arrows, tidiness'
	@echo 'make bench   side by side with the kernel and Open vSwitch (root, a quiet machine)'

demo:
	$(CARGO) build --release -p weft-cli
	$(TARGET_DIR)/release/weft lab run topologies/two-tenants-overlapping.yaml

# The end-to-end suites run the binary of the same profile, so it is built first.
test:
	$(CARGO) build --workspace --all-targets
	$(CARGO) nextest run --workspace

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items
	$(CARGO) nextest run --workspace -E 'binary(arrows) or binary(dependencies) or binary(tidy)'

# BENCH='--only vxlan --rounds 3' measures less.
bench:
	$(CARGO) build --profile dist -p weft-cli -p weft-bench
	$(TARGET_DIR)/dist/weft-bench --json bench/last.json --markdown bench/last.md --chart bench/chart.svg $(BENCH)
	$(TARGET_DIR)/dist/weft-bench-micro --instructions
