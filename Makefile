# make help    lists what there is

SHELL       := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS   += --no-print-directory

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GO       ?= go

# The packages whose tests run a second time under the race detector: those in
# which goroutines share state. End-to-end suites talk to other processes, where
# it sees nothing.
RACE     := vfs wal cache objstore cow blockdev branchfs postgres proxy api

# The S3 server of the tests; one that is named must be there.
S3       := BOUGH_VERSITYGW=$(CURDIR)/bin/versitygw

# Servers of other Postgres versions; without npm the tests that want them are skipped.
POSTGRES  = $(if $(wildcard bin/postgres/18),BOUGH_POSTGRES=$(CURDIR)/bin/postgres)

# make run
ifeq ($(shell id -u),0)
BOUGH_STATE   ?= /var/lib/bough
else
BOUGH_STATE   ?= $(HOME)/.local/state/bough
endif
BOUGH_PROJECT ?= demo

# make soak, make bench, make microbench, make fuzz
SOAK       ?= 30m
BENCHFLAGS ?=
BENCH      ?= .
BENCHTIME  ?= 1s
FUZZTIME   ?= 30s

.PHONY: build
build: ## build the static binary bin/bough
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/bough ./cmd/bough

# -count=1: the end-to-end tests build the program themselves, which go does not see.
.PHONY: test
test: deps lint build bin/versitygw postgres ## all checks and tests, end to end included
	$(S3) $(POSTGRES) $(GO) test -count=1 -timeout 15m ./...
	$(S3) $(GO) test -timeout 10m -race -short \
	  $$($(GO) list ./... | grep -E '/bough/($(subst $() ,|,$(RACE)))(/|$$)')

.PHONY: run
run: build ## run bough here, with a project "demo" made on the first start
	scripts/install-deps.sh run
	mkdir -p '$(BOUGH_STATE)'
	exec bin/bough serve --state '$(BOUGH_STATE)' --create '$(BOUGH_PROJECT)'

.PHONY: lint
lint: bin/staticcheck ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w): $$unformatted"; exit 1; fi
	$(GO) vet ./...
	bin/staticcheck ./...

.PHONY: soak
soak: deps build bin/versitygw ## the long tests, for SOAK=30m each
	$(S3) BOUGH_SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -v -run '^TestSoak' ./...

.PHONY: bench
bench: deps build ## bough against this machine's own file system (BENCHFLAGS=-h: how)
	$(GO) run ./test/bench -bough bin/bough $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Go benchmarks; BENCH=regexp BENCHTIME=1s
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME=30s
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: deps
deps: ## install the system packages that the tests need, if any is missing
	scripts/install-deps.sh test

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: postgres
postgres:
	@[ -d bin/postgres/18 ] || scripts/install-postgres.sh bin/postgres || \
	  echo "no servers of Postgres 16 to 18: what is tested on them is skipped" >&2

# Tools are pinned in a module of their own, so that they never reach go.mod.
bin/staticcheck: tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

# Two to six minutes the first time; make keeps it after that.
bin/versitygw: tools/versitygw/go.mod tools/versitygw/go.sum
	cd tools/versitygw && $(GO) build -trimpath -ldflags '-s -w' -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw
