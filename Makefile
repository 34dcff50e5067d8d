# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# sudo forgets the PATH; Go's usual place is a fair guess.
GO := $(or $(shell command -v go),$(wildcard /usr/local/go/bin/go),go)
export PATH := $(PATH):$(dir $(GO))
# The version comes from git describe below. Go's own stamp would make the build
# fail in a clone that belongs to another user.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

LISTEN ?= 127.0.0.1:8080
export LISTEN
# What makes containers; empty for docker where an engine answers, else oci.
ifdef SANDBOX
export DAYFLY_SANDBOX := $(SANDBOX)
endif

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## compile bin/dayfly
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/dayfly ./cmd/dayfly

.PHONY: up
up: build ## start Dayfly with the examples; Ctrl-C stops it (LISTEN=127.0.0.1:9090 moves it, SANDBOX=docker|oci chooses)
	@scripts/with-engine scripts/up

.PHONY: demo
demo: build ## call every example, check the answers, stop; the exit code says whether all were right
	@scripts/with-engine scripts/up --demo

.PHONY: cluster-up
cluster-up: build ## start the cluster of docker-compose.yml: three nodes in containers (LISTEN=127.0.0.1:9090 moves it)
	@scripts/ensure --compose && scripts/cluster up

.PHONY: cluster-test
cluster-test: build ## deploy to that cluster, kill one container of each kind but the balancer, check that calls go on and no event is lost
	@scripts/with-engine --compose scripts/cluster test

.PHONY: cluster-down
cluster-down: ## remove that cluster with all its data
	@scripts/cluster down

.PHONY: test
test: ## run vet and all tests with the race detector, with containers, and each fuzz target for 2 s
	@scripts/with-engine --tests scripts/test

.PHONY: unit
unit: ## run the tests that need no containers
	@packages=$$(scripts/packages unit); $(GO) test $$packages

.PHONY: leaks
leaks: ## start and end a thousand instances, and count what is left of them (make test: a hundred)
	@DAYFLY_LEAK_CYCLES=1000 scripts/with-engine --both $(GO) test -count 1 -v -run Leaks ./test/node

.PHONY: faults
faults: ## accept ten thousand events while every role and NATS are killed again and again (make test: 1500)
	@DAYFLY_FAULT_EVENTS=10000 $(GO) test -count 1 -v -timeout 15m -run Faults ./test/events

.PHONY: storm
storm: ## deploy two hundred times at once while builders and the registry's leader are killed (make test: once)
	@DAYFLY_STORM_KILLS=3 $(GO) test -count 1 -v -timeout 10m -run Storm ./test/registry

.PHONY: chaos
chaos: ## kill, pause and cut off the processes of a whole cluster by 50 seeds (make test: ten; DAYFLY_CHAOS_SEED=n for one, DAYFLY_CHAOS_SEEDS=n for more)
	@DAYFLY_CHAOS_SEEDS=$${DAYFLY_CHAOS_SEEDS:-50} scripts/with-engine --tests $(GO) test -count 1 -v -timeout 60m -run Chaos ./test/chaos

.PHONY: lint
lint: ## run golangci-lint (the first time compiles it, which takes minutes)
	$(GO) run $(GOLANGCI_LINT) run ./...

.PHONY: bench
bench: build ## measure calls, cold starts and events against their baselines
	@scripts/with-engine --both $(GO) run ./bench

.PHONY: fmt
fmt: ## format the Go code
	$(GO) fmt ./...

.PHONY: ensure
ensure: ## install and start what both sandboxes need; leaves the Docker Engine running
	@scripts/ensure --both

.PHONY: stop-engine
stop-engine: ## stop the Docker Engine if a target here has started it
	@source scripts/engine.sh && stop_engine any

.PHONY: clean
clean: ## remove what was built; functions and data in .dayfly/data stay
	rm -rf bin dist
