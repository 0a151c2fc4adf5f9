package check

import (
	"unsafe"

	"gobtrfs/disk"
)

// DefaultMemory is the memory that a check takes at most by default, whatever
// the size of the filesystem.
const DefaultMemory = 256 << 20

// limits are how many elements of each kind are in memory at a time. Together
// they take about half of Options.Memory: garbage that has not been collected
// yet takes as much again.
type limits struct {
	pool          int64 // bytes of pages
	links, spans  int   // of a worker, before they go to the pool
	full          int
	leafBatch     int // blocks
	interiorBatch int
	records       int // of a diagnosis
	rares         int64
	quotaExtents  uint64
	sets          int64 // bytes
}

// Least numbers: below them a check would only be slow.
const (
	minBatch   = 64
	minRecords = 1 << 12
)

func newLimits(memory int64, workers int) limits {
	if memory <= 0 {
		memory = DefaultMemory
	}
	part := func(share, size int64, least, most int) int {
		return int(min(max(memory/share/size, int64(least)), int64(most)))
	}
	w := int64(workers)
	return limits{
		pool:          memory / 4,
		links:         part(64*w, int64(unsafe.Sizeof(link{})), minBatch, 1<<16),
		spans:         part(64*w*int64(spanKinds), int64(unsafe.Sizeof(span{})), minBatch, 1<<16),
		full:          part(128*w, int64(unsafe.Sizeof(disk.Logical(0))), minBatch, 1<<16),
		leafBatch:     part(64, int64(unsafe.Sizeof(slot{})), minBatch, maxLeafBatch),
		interiorBatch: part(128, 500*int64(unsafe.Sizeof(kid{})), minBatch/8, maxInteriorBatch),
		records:       part(8, int64(unsafe.Sizeof(refRecord{})), minRecords, 1<<20),
		rares:         int64(part(32, 64, minRecords, 1<<20)),
		quotaExtents:  uint64(part(8, 64, minRecords, 1<<21)),
		sets:          max(memory/8, 1<<20),
	}
}
