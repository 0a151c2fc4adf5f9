package fusefs

import (
	"sync"
	"sync/atomic"
)

// known counts the lookups of each node that the kernel has not taken back. As
// long as there is one the kernel has the inode in its memory, and a program may
// have the file open: so files need no OPEN and RELEASE, which would be two
// requests more for each use of a small file. It costs some 40 bytes for an
// inode of which the kernel keeps about a kilobyte.
//
// A nil *known counts nothing.
type known struct {
	full   func()       // is called when there are more than next; any number of times
	next   atomic.Int64 // changed by prune
	total  atomic.Int64 // nodes
	shards [knownShards]knownShard
}

func newKnown(limit int64, full func()) *known {
	k := &known{full: full}
	k.next.Store(limit)
	return k
}

const knownShards = 64

type knownShard struct {
	mu      sync.Mutex
	lookups map[nodeID]uint64
}

func (k *known) shard(id nodeID) *knownShard { return &k.shards[uint64(id)%knownShards] }

// add counts a lookup.
func (k *known) add(id nodeID) {
	if k == nil || id == 0 {
		return
	}
	if k.shard(id).add(id) && k.total.Add(1) > k.next.Load() {
		k.full()
	}
}

// add says whether the node is new.
func (s *knownShard) add(id nodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups == nil {
		s.lookups = map[nodeID]uint64{}
	}
	s.lookups[id]++
	return s.lookups[id] == 1
}

// some is n nodes or so, whichever.
func (k *known) some(n int) []uint64 {
	out := make([]uint64, 0, max(n, 0)+knownShards)
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		each := n/knownShards + 1
		for id := range s.lookups {
			if each--; each < 0 {
				break
			}
			out = append(out, uint64(id))
		}
		s.mu.Unlock()
	}
	return out
}

// has says whether the kernel knows a node.
func (k *known) has(id nodeID) bool {
	s := k.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups[id] > 0
}

// forget takes n lookups back, and says whether those were the last.
func (k *known) forget(id nodeID, n uint64) (last bool) {
	s := k.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.lookups[id]
	if have > n {
		s.lookups[id] = have - n
		return false
	}
	delete(s.lookups, id)
	if have > 0 {
		k.total.Add(-1)
	}
	return have > 0
}
