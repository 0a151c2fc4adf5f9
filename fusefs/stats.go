package fusefs

import (
	"sync/atomic"
	"time"
)

// Stats is what a mount has done so far.
type Stats struct {
	Ops []OpStats // by kind, in a fixed order
	// Bytes of contents that the kernel was given and that it gave. What it had
	// in its own memory is not among them.
	BytesRead, BytesWritten uint64
	Removed                 int // inodes without a name that are still in use
}

// OpStats counts the requests of one kind.
type OpStats struct {
	Name     string        `json:"name"`
	Requests uint64        `json:"requests"`
	Errors   uint64        `json:"errors"`
	Time     time.Duration `json:"time_ns"` // in all
}

// op is a kind of request.
type op int

const (
	opLookup op = iota
	opGetattr
	opRead
	opReaddir
	opXattr
	opCreate
	opRemove
	opRename
	opWrite
	opSetattr
	opAllocate
	opFsync
	opOther
	opCount
)

var opNames = [opCount]string{"lookup", "getattr", "read", "readdir", "xattr", "create", "remove", "rename", "write", "setattr", "allocate", "fsync", "other"}

// counters are what Stats is made of.
type counters struct {
	ops                     [opCount]struct{ requests, errors, nanos atomic.Uint64 }
	bytesRead, bytesWritten atomic.Uint64
}

// count counts a request that took so long.
func (c *counters) count(o op, took time.Duration, failed bool) {
	n := &c.ops[o]
	n.requests.Add(1)
	n.nanos.Add(uint64(took))
	if failed {
		n.errors.Add(1)
	}
}

func (c *counters) stats() Stats {
	s := Stats{BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load()}
	for o := range c.ops {
		n := &c.ops[o]
		s.Ops = append(s.Ops, OpStats{opNames[o], n.requests.Load(), n.errors.Load(), time.Duration(n.nanos.Load())})
	}
	return s
}
