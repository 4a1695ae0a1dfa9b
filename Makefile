# make demo    builds weft and shows its main job on this machine
# make test    installs what the tests need, and runs all of them
# make lint    format, clippy, docs, licences
# make bench   micro benchmarks
# make dist    the static release binary
# make profile what that binary is compiled and laid out by, anew
#
# Everything that is built or fetched goes to the cache, outside the checkout.

SHELL := /bin/bash
.DELETE_ON_ERROR:

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/weft
export CARGO_TARGET_DIR ?= $(CACHE)/target
export WEFT_TEST_CACHE ?= $(CACHE)
# rustup's place, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

DENY_VERSION := 0.20.2
DENY := $(CACHE)/tools/bin/cargo-deny
DIST ?= $(CARGO_TARGET_DIR)/dist

.PHONY: demo test lint bench dist profile toolchain

demo: toolchain
	cargo run --locked --profile demo -- demo $(ARGS)

test: toolchain
	tests/install $(CACHE)
	cargo test --locked $(ARGS)

lint: toolchain $(DENY)
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	cargo fetch --locked --quiet
	$(DENY) --offline check bans licenses sources

bench: toolchain
	cargo bench --locked $(ARGS)

# glibc is linked in: the binary runs on any Linux of its architecture, and alone in an image. Symbols stay, so that
# a panic's backtrace has names; line tables go. Relocations are packed, and what runs lies together and is
# compiled for what it mostly does (docs/decisions/0008); of functions that have changed since, nothing is known.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs -C symbol-mangling-version=v0 \
    -C linker=benches/layout/order-cc
PROFILE := benches/layout/weft.profdata
dist: toolchain
	RUSTFLAGS="$(STATIC) -C profile-use=$(CURDIR)/$(PROFILE) -C llvm-args=-no-pgo-warn-mismatch" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
	    cargo build --locked --release --target $(HOST)
	install -D $(CARGO_TARGET_DIR)/$(HOST)/release/weft $(DIST)/weft
	@ls -lh $(DIST)/weft

# What `dist` is compiled and laid out by: loads run by a binary that counts, then calls under callgrind.
profile: COUNTS := $(CARGO_TARGET_DIR)/profile
profile: LLVM_PROFDATA = $(shell rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata
profile: toolchain
	rustup component add llvm-tools
	RUSTFLAGS="$(STATIC) -C profile-generate" CARGO_PROFILE_RELEASE_STRIP=debuginfo \
	    cargo build --locked --release --target $(HOST)
	rm -rf $(COUNTS) && mkdir -p $(COUNTS)
	benches/layout/train $(CARGO_TARGET_DIR)/$(HOST)/release/weft $(COUNTS)
	$(LLVM_PROFDATA) merge --sparse -o $(PROFILE) $(COUNTS)/*.profraw
	$(MAKE) dist
	benches/layout/record $(DIST)/weft

toolchain:
	@tests/install --toolchain

$(DENY):
	CARGO_TARGET_DIR=$(CACHE)/tools/target cargo install --quiet --locked --root $(CACHE)/tools cargo-deny@$(DENY_VERSION)
	rm -rf $(CACHE)/tools/target
