# make alone lists the targets.
.DEFAULT_GOAL := help
FUZZTIME ?= 30s

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the program, static, into ./bin
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/sluice ./cmd/sluice

.PHONY: test
test: ## Run every test with the race detector
	CI=1 go test -race ./...

.PHONY: lint
lint: ## Check the format and run go vet
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	go vet ./...

.PHONY: fuzz
fuzz: ## Fuzz everything that parses, each for FUZZTIME (30s)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: prove
prove: ## Kill processes and Redis under 2,000 jobs; fail when one is lost or paid for twice
	go run ./cmd/prove

.PHONY: image
image: ## Build the container image
	docker build -t sluice .

.PHONY: ci
ci: ## Run what the continuous integration runs
	.ci/run
