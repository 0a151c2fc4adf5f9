# Everything CI runs is a target here; .ci/run calls them. `make` builds.
export CGO_ENABLED ?= 0

GO       ?= go
FUZZTIME ?= 60s
# How many fuzz targets one run takes, and from which on: CI counts on with the commits.
FUZZN    ?= 1000
FUZZFROM ?= 0
# Packages with goroutines and locks of their own: run under the race detector.
RACE     ?= ./internal/space/... ./internal/txn/... ./internal/block/... ./internal/volume/... ./internal/fstree/... ./internal/lockrank/... \
            ./extract/... ./report/... ./mkfs/... ./check/... ./scrub/... ./stream/... ./fusefs/... ./internal/btree/... ./internal/ordered/... ./internal/lab/... .

# Of these, the ones that are mostly protocol: on one core too.
RACE1    ?= ./internal/space/... ./internal/lab/... ./internal/txn/... ./internal/block/... ./internal/btree/... ./internal/fstree/... \
            ./internal/ordered/... ./internal/lockrank/... ./fusefs/...

# Long tests of what is on the disk in the end, where one goroutine works after the other: `make test` has them.
RACESKIP ?= ^Test(FillAndEmpty|FillRounds|PunchWhenFull|PreallocatedWhenFull|WriteManyDevices|LinuxDropsWhatWeBegan|ConvertedFromExt4|OddFilesystemsBesideKernel|DevicesComeAndGo|LayoutAsLinux)$$

.PHONY: build test long race fuzz lint cross bench demo ci
build:
	$(GO) build -o bin/gobtrfs ./cmd/gobtrfs
test:
	$(GO) test ./...
# What takes minutes: real trees, long random runs.
long:
	$(GO) test -count=1 -timeout=60m -tags=long ./...
race: export CGO_ENABLED = 1
race:
	GOMAXPROCS=1 $(GO) test -race -short -count=1 $(call present,$(RACE1))
	GOMAXPROCS=2 $(GO) test -race -short -count=1 -skip '$(RACESKIP)' $(call present,$(RACE))
	GOMAXPROCS=2 $(GO) test -race -short -count=1 -run TestManyEditors -stress.time=60s .
fuzz:
	.ci/fuzz $(FUZZTIME) $(FUZZN) $(FUZZFROM)
lint:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "gofmt would change:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
# Compiles packages and tests for every system we support; only fusefs and mount are for 64-bit Unix.
cross:
	@for target in linux/arm64 linux/386 linux/s390x darwin/arm64 windows/amd64 freebsd/amd64; do \
	  echo "build $$target"; GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./... || exit 1; done
	@for os in darwin windows freebsd; do echo "vet $$os"; GOOS=$$os $(GO) vet ./... || exit 1; done
# Each prints tables for docs/benchmarks*.md. CURRENT: a newer btrfs; MKFS_CURRENT: a newer mkfs.btrfs. Root; half an hour or more.
bench: build
	$(GO) run ./bench
	CURRENT=$(MKFS_CURRENT) bench/mkfs_compare.sh 5
	bench/check.sh
	$(GO) run ./bench/write
	bench/mount.sh
demo: build
	demo/run.sh bin/gobtrfs
ci:
	.ci/run

# The packages of a list that exist: a layer that is not built yet is not an error.
present = $(foreach p,$(1),$(if $(wildcard $(patsubst %/...,%,$(p))/*.go),$(p)))
