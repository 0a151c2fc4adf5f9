package mkfs

import (
	"sync"

	"gobtrfs/disk"
)

// block is a tree block that was placed.
type block struct {
	at    disk.Logical
	owner disk.ObjectID
	level uint8
}

// nodeStore places nodes in a region and writes them, many at a time. With a
// spill the region is virtual and the nodes stay aside.
type nodeStore struct {
	region *region
	size   int
	w      *writer
	spill  *spill

	blocks []block
	firsts []disk.Key // of each block, where the extent tree needs it
	keys   bool       // keep firsts

	run   []byte // nodes that follow each other
	start disk.Logical
	c     *chunk // of the last place
	runIn *chunk
	pool  sync.Pool
	node  disk.Node // one that is free
}

const runSize = 512 << 10

func (s *nodeStore) place(owner disk.ObjectID, level int, first disk.Key) (disk.Logical, error) {
	at, c, _, err := s.region.take(uint64(s.size), true)
	if err != nil {
		return 0, err
	}
	s.c = c
	s.record(at, owner, level, first)
	return at, nil
}

func (s *nodeStore) record(at disk.Logical, owner disk.ObjectID, level int, first disk.Key) {
	s.blocks = append(s.blocks, block{at, owner, uint8(level)})
	if s.keys {
		s.firsts = append(s.firsts, first)
	}
}

func (s *nodeStore) buffer() disk.Node {
	if n := s.node; n != nil {
		s.node = nil
		return n
	}
	return make(disk.Node, s.size)
}

func (s *nodeStore) put(at disk.Logical, n disk.Node) error {
	s.node = n
	if s.spill != nil {
		return s.spill.append(n)
	}
	if s.runIn != s.c || at != s.start+disk.Logical(len(s.run)) || len(s.run)+len(n) > runSize {
		s.flush()
		s.start, s.runIn = at, s.c
		if b, ok := s.pool.Get().(*[]byte); ok {
			s.run = (*b)[:0]
		} else {
			s.run = make([]byte, 0, runSize)
		}
	}
	s.run = append(s.run, n...)
	return nil
}

// flush hands the collected nodes to the writer.
func (s *nodeStore) flush() {
	if len(s.run) == 0 {
		return
	}
	b := s.run
	s.run = nil
	s.w.send(request{
		segs: []segment{{s.runIn, s.start, b}},
		done: func() { s.pool.Put(&b) },
	})
}

// listSink places the nodes of one tree at addresses that were chosen before.
type listSink struct {
	*nodeStore
	l     *layout
	next  int
	addrs []disk.Logical
	virt  bool
}

func (s *listSink) place(disk.ObjectID, int, disk.Key) (disk.Logical, error) {
	at := s.addrs[s.next]
	s.next++
	if !s.virt {
		s.c = s.l.chunkAt(at)
	}
	return at, nil
}
