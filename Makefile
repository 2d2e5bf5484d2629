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
test: ## Run every test with the race detector; what is not installed is skipped
	GORACE=atexit_sleep_ms=0 go test -race -p 2 -timeout 8m ./...

.PHONY: prove-races
prove-races: ## Run the tests of the program once more with the race detector in every process that they start, about 2 minutes
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -timeout 10m ./cmd/sluice -raced

.PHONY: test-kubernetes
test-kubernetes: ## Hold the manifests of deploy/kubernetes to the types of Kubernetes
	cd deploy/kubernetes && go test ./...

.PHONY: lint
lint: ## Check the format, run go vet and staticcheck, look for code that nothing reaches
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	go vet ./...
	go tool staticcheck -checks all ./...
	@unreached=$$(go tool deadcode -test ./...) && test -z "$$unreached" || { echo "deadcode: $$unreached"; exit 1; }

.PHONY: vuln
vuln: ## Look for known vulnerabilities in what is reached; VULNDB is the address of their database
	@test -n "$(VULNDB)" || { echo "vuln: say which database to ask: make vuln VULNDB=ADDRESS"; exit 2; }
	@if curl -fsS -o /dev/null --max-time 10 $(VULNDB)/index/db.json; \
		then go run golang.org/x/vuln/cmd/govulncheck@latest -db $(VULNDB) ./...; \
		else echo "vuln: $(VULNDB) cannot be reached: nothing is known about vulnerabilities"; exit 3; fi

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
	go run ./cmd/prove kill

.PHONY: prove-nodes
prove-nodes: ## Kill and stop primaries of Sentinel and of a cluster under load, six times each, about 4 minutes; fail when anything is lost
	go run ./cmd/prove nodes

.PHONY: prove-versions
prove-versions: ## Run the release before, from its recorded commit, beside this one and roll back, about 2 minutes; fail when the pace falls or anything is lost
	go run ./cmd/prove versions

.PHONY: bench
bench: bench-pace bench-far bench-submit bench-pickup bench-sync bench-streams bench-memory bench-bodies bench-backlog ## Measure everything below, about 9 minutes

.PHONY: bench-webhooks
bench-webhooks: ## Deliveries a second against signing and sending alone; slow receivers; kills, about 2 minutes
	go run ./cmd/prove hooks

.PHONY: bench-pace
bench-pace: ## Share of the allowance used, 429s, Redis calls a job
	go run ./cmd/prove pace $(BENCHFLAGS)

.PHONY: bench-far
bench-far: ## Calls a second of one worker at 20 ms from Redis
	go run ./cmd/prove far $(BENCHFLAGS)

.PHONY: bench-accounts
bench-accounts: ## Measure the share used of two and of five accounts' allowances, and how one of three leaves and comes back, about 6 minutes
	go run ./cmd/prove accounts $(BENCHFLAGS)

.PHONY: bench-native
bench-native: ## Replay a part of Mooncake's trace with deadlines of 1, 6 and 24 h, a minute for an hour, against batches of the providers, about 3 minutes
	go run ./cmd/prove native $(BENCHFLAGS)

.PHONY: prove-pace
prove-pace: ## Simulate a bucket that runs dry and a foreign user of the key, with four seeds each
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -run 'TestAFullBucketRunsDry|TestForeignRequestsOnASmallBurst' ./worker/limit -seeds 4

.PHONY: prove-refusals
prove-refusals: ## Measure another tenant's waits beside each kind of refused prompt, and wait for each one's end, about 5 minutes
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -timeout 15m -run 'TestOnePoisonedPromptOfMany|TestPoisonedPromptsDelay' ./cmd/sluice -every -v

.PHONY: prove-accounts
prove-accounts: ## Move jobs about by dice and compare the tenant's account after each move, with twelve seeds
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -run TestAnAccountIsWhatItsJobsUsedAndWait ./tasks/store -seeds 12

.PHONY: prove-crowd
prove-crowd: ## Come at each limit 400 times at once by submits, batches, retries and both dialects, also by calls that wait, about 20 s; fail unless it holds to the one
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -run TestALimitIsExactForACrowd ./cmd/sluice -crowd 80

.PHONY: prove-edits
prove-edits: ## Edit a file of prompts at random between runs that are interrupted and killed, 14 times, about 20 s
	GORACE=atexit_sleep_ms=0 go test -race -count 1 -run TestEditsAndInterruptionsAtRandom ./cmd/sluice -rounds 14

.PHONY: prove-poison
prove-poison: ## Kill the worker at each call of one job, about 70 s; fail when that goes on or costs another job its answer
	go run ./cmd/prove poison

.PHONY: prove-hostile
prove-hostile: ## Attack as one tenant and watch as another, about 70 s; fail when that one is slowed past the bars
	go run ./cmd/prove hostile

.PHONY: prove-leave
prove-leave: ## Delete a tenant of 100,000 jobs and kill the API that does it on the way, about 3 minutes; fail when another tenant is slowed or anything is left
	go run ./cmd/prove hostile --leave 100000 --slow

.PHONY: prove-proxies
prove-proxies: ## Restart APIs behind nginx and HAProxy 20 times under 5,000 POSTs, about 90 s; fail when one is lost
	go run ./cmd/prove proxies

.PHONY: prove-sdk
prove-sdk: ## Drive the official SDKs call by call and through kills, after npm ci in cmd/prove/sdks/testdata/npm, about 15 minutes
	go run ./cmd/prove sdks $(SDKFLAGS)

.PHONY: prove-clients
prove-clients: ## Generate clients of Go and TypeScript from api/openapi.yaml and take jobs through them, after npm ci in cmd/prove/clients/testdata/npm, about a minute
	cd cmd/prove/clients && go tool oapi-codegen -generate types,client -package client -o client/client.gen.go ../../../api/openapi.yaml
	cd cmd/prove/clients/testdata/npm && npx openapi-typescript ../../../../../api/openapi.yaml -o schema.d.ts
	cd cmd/prove/clients/testdata/npm && npx openapi-ts -s
	cd cmd/prove/clients/testdata/npm && npx tsc --strict --target es2022 --module nodenext --moduleResolution nodenext --lib es2023,dom,dom.iterable --outDir out life.mts hey.mts
	cd cmd/prove/clients && go run .

.PHONY: prove-console
prove-console: ## Look at every page of the console with a browser, after npm ci in cmd/prove/pages/testdata/npm, about 2 minutes
	go run ./cmd/prove console $(PAGEFLAGS)

.PHONY: pictures
pictures: ## Take the pictures of the console in docs/img anew, after npm ci in cmd/prove/pages/testdata/npm
	go run ./cmd/prove console --rounds 1 --pictures docs/img

.PHONY: prove-room
prove-room: ## Fill small Redises with results, about 3 minutes; fail when an accepted job has no room to end in
	go run ./cmd/prove room --memory 24 --answer 20
	go run ./cmd/prove room --memory 24 --answer 20 --batch 1500
	go run ./cmd/prove room --memory 64 --answer 200

.PHONY: prove-stall
prove-stall: ## Stop workers for moments and crowd their processors; fail when the allowance is passed or left, about 2 minutes
	go run ./cmd/prove stall

.PHONY: bench-submit
bench-submit: ## Submits a second, against a bare handler
	go run ./cmd/prove submit $(BENCHFLAGS)

.PHONY: bench-pickup
bench-pickup: ## From submit to provider while idle
	go run ./cmd/prove pickup $(BENCHFLAGS)

.PHONY: bench-batches
bench-batches: ## Memory of the API during batches of 100,000 lines in the providers' own forms, about 5 minutes
	go run ./cmd/prove batches $(BENCHFLAGS)

.PHONY: bench-sync
bench-sync: ## What waiting within the submit adds to a direct call
	go run ./cmd/prove sync $(BENCHFLAGS)

.PHONY: bench-streams
bench-streams: ## Compare 11,000 streamed events with what the provider sent, and measure how far behind they are
	go run ./cmd/prove streams $(BENCHFLAGS)

.PHONY: bench-memory
bench-memory: ## Bytes of Redis a queued job
	go run ./cmd/prove memory $(BENCHFLAGS)

.PHONY: bench-bodies
bench-bodies: ## Rates and bytes of Redis with prompts of 20 KiB in a folder, about a minute
	go run ./cmd/prove bodies $(BENCHFLAGS)

.PHONY: bench-traces
bench-traces: ## Processor time of submits and calls with traces against without, about a minute
	go run ./cmd/prove traces $(BENCHFLAGS)

.PHONY: bench-seal
bench-seal: ## What sealing costs submits and calls, about 2 minutes
	go run ./cmd/prove seal $(BENCHFLAGS)

.PHONY: bench-backlog
bench-backlog: ## Rates with 200,000 jobs queued
	go run ./cmd/prove backlog $(BENCHFLAGS)

.PHONY: bench-lists
bench-lists: ## Time the console's pages behind 50,000 jobs, and 200 live views; about 2 minutes; BENCHFLAGS='--jobs 1000000 --timeout 30m' for more
	go run ./cmd/prove lists $(BENCHFLAGS)

.PHONY: bench-fair
bench-fair: ## Measure how a pool's allowance is shared among tenants: real sizes, weights, a flood, lanes, large prompts, 10,000 tenants; about 3 minutes
	go run ./cmd/prove fair $(FAIRFLAGS)

.PHONY: bench-abuse
bench-abuse: ## Measure how much abuse is found, how soon, and what else is taken for it: 5 worlds of 200 tenants for two weeks of virtual time (4 min on two cores)
	go run ./cmd/prove abuse $(ABUSEFLAGS)

TRACE ?= cmd/prove/fair/testdata/servegen.csv
.PHONY: bench-overload
bench-overload: ## Measure, in virtual time, who is refused and who expires at 1.5 times the allowance; TRACE names a log
	go run ./cmd/sluice simulate --trace $(TRACE) --calls 4000 --load 1.5 --limits 600,600000,100000,0 --answer 60

.PHONY: bench-outage
bench-outage: ## Measure an outage, a shared key, lost state, killed workers and a skewed clock (7 min)
	go run ./cmd/prove outage

.PHONY: image
image: ## Build the container image
	docker build --build-arg REVISION=$$(git rev-parse HEAD) -t sluice .

.PHONY: pin-images
pin-images: ## Write the digest of each image's tag behind it, in docker-compose.yml and Dockerfile; needs docker and the registries
	@set -e; for file in docker-compose.yml Dockerfile; do \
		for image in $$(sed -nE 's/^ +image: ([^@ ]+:[^@ ]+).*/\1/p; s/^FROM ([^@ ]+:[^@ ]+).*/\1/p' $$file); do \
			digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' $$image); \
			case $$digest in sha256:*) ;; *) echo "pin-images: no digest of $$image: $$digest"; exit 1;; esac; \
			sed -i -E "s|(image: \|FROM )$$image(@sha256:[0-9a-f]+)?|\1$$image@$$digest|" $$file; \
			echo "$$file: $$image@$$digest"; \
		done; \
	done

.PHONY: release
release: ## Build static programs for Linux and macOS (amd64, arm64) into ./dist, with checksums and an SBOM each
	go run ./cmd/release --out dist

.PHONY: prove-release
prove-release: ## Build the program from two copies of the source and compare
	go run ./cmd/release --check

.PHONY: ci
ci: ## Run what the continuous integration runs
	.ci/run
