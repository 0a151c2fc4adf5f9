package fusefs

import "sync"

// known counts the lookups of each node that the kernel has not taken back. As
// long as there is one the kernel has the inode in its memory, and a program may
// have the file open: so files need no OPEN and RELEASE, which would be two
// requests more for each use of a small file. It costs some 40 bytes for an
// inode of which the kernel keeps about a kilobyte.
//
// A nil *known counts nothing.
type known struct{ shards [knownShards]knownShard }

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
	s := k.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups == nil {
		s.lookups = map[nodeID]uint64{}
	}
	s.lookups[id]++
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
	return have > 0
}
