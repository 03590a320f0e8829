# Front door of the project: `make help` lists what there is.
#
# `demo`, `test` and `install` need cargo, a C and (for `test`) a C++ compiler, nothing else.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
PROBLEMS ?= benches/problems.txt

TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
# CC and CXX are handed on only where they are given: a package that compiles C does so again when they appear or go, and
# with it all tests.
export CARGO

.DEFAULT_GOAL := help
.PHONY: help demo test test-full bench bench-peers header install fmt lint doc clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo
	@echo "  make install PREFIX=/opt/subquad DESTDIR=/tmp/stage     where to install (PREFIX: $(PREFIX))"
	@echo "  make bench PROBLEMS=my-problems.txt                     what to time besides the tiles"

demo: ## build all, run the C example, then every mechanism on real data
	@tools/demo

test: ## everything that needs only cargo, a C and a C++ compiler
	@tools/test --workspace --release

test-full: ## aarch64 and older x86 under emulation, valgrind, sanitizers: what is there
	@tools/test-full $(if $(STAGE),--stage $(STAGE))

bench: ## micro-benchmarks of tiles and plans, then the problems of benches/problems.txt
	$(CARGO) bench --package subquad --bench '*'
	$(CARGO) build --release --package subquad-cli
	$(RELEASE)/subquad bench --file $(PROBLEMS)

bench-peers: ## the same work in ONNX Runtime, ggml and PyTorch, installed into a private folder
	$(CARGO) build --release --package subquad-cli
	benches/peers/run

header: ## write include/subquad.h and the generated tables anew
	SUBQUAD_BLESS=1 $(CARGO) test --release --workspace --test catalog tables_match_specification
	SUBQUAD_BLESS=1 $(CARGO) test --release --workspace --test roles constants_are_fresh
	SUBQUAD_BLESS=1 $(CARGO) test --release --workspace --test header header_is_fresh

install: ## header, shared and static library, pkg-config and CMake files
	$(CARGO) build --release --package libsubquad
	BUILD_DIR='$(RELEASE)' tools/install.sh '$(PREFIX)' '$(DESTDIR)'

fmt: ## format the sources
	$(CARGO) fmt --all

lint: ## what has to hold before a commit: format, clippy, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --package subquad --document-private-items

doc: ## documentation of the Rust API, in target/doc
	$(CARGO) doc --package subquad --no-deps

clean: ## remove everything that was built
	$(CARGO) clean
