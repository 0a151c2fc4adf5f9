package block

import (
	"math/bits"
	"sync/atomic"

	"gobtrfs/disk"
)

// nodeTable finds nodes by address. Any number of goroutines may look; those
// that change it exclude each other.
type nodeTable struct {
	shift uint                     // of a hash, to get a slot
	slots []atomic.Pointer[tabled] // a power of two; linear probing
	used  int                      // slots that are not nil; of who changes the table
	live  atomic.Int64             // those with a node
}

// tabled is an entry, which never changes. A nil node says that it was removed:
// the slot stays, for others may lie behind it.
type tabled struct {
	addr disk.Logical
	node disk.Node
}

// newNodeTable makes a table with room for n nodes.
func newNodeTable(n int) *nodeTable {
	const smallest = 6 // bits
	b := max(smallest, bits.Len(uint(n+n/2)))
	return &nodeTable{shift: uint(64 - b), slots: make([]atomic.Pointer[tabled], 1<<b)}
}

// slot is where to begin to look for an address.
func (t *nodeTable) slot(a disk.Logical) int {
	// Addresses are multiples of the node size, mostly 16 KiB.
	return int(uint64(a) >> 12 * 0x9e3779b97f4a7c15 >> t.shift)
}

func (t *nodeTable) get(a disk.Logical) disk.Node {
	for i := t.slot(a); ; i++ {
		e := t.slots[i&(len(t.slots)-1)].Load()
		if e == nil {
			return nil
		}
		if e.addr == a {
			return e.node
		}
	}
}

// full says that nothing may be put before the table has grown. A quarter of
// the slots stays nil, so that searches end soon.
func (t *nodeTable) full() bool { return t.used >= len(t.slots)/4*3 }

// grown is a larger copy, without what was removed.
func (t *nodeTable) grown() *nodeTable {
	g := newNodeTable(2 * int(t.live.Load()))
	for _, n := range t.all() {
		g.put(n.Bytenr(), n)
	}
	return g
}

func (t *nodeTable) put(a disk.Logical, n disk.Node) { t.set(a, &tabled{a, n}, 1) }

func (t *nodeTable) remove(a disk.Logical) {
	if t.get(a) != nil {
		t.set(a, &tabled{a, nil}, -1)
	}
}

// set puts an entry where a's is or belongs.
func (t *nodeTable) set(a disk.Logical, entry *tabled, grow int64) {
	for i := t.slot(a); ; i++ {
		s := &t.slots[i&(len(t.slots)-1)]
		switch e := s.Load(); {
		case e == nil:
			t.used++
		case e.addr != a:
			continue
		case e.node != nil && entry.node != nil:
			grow = 0
		}
		s.Store(entry)
		t.live.Add(grow)
		return
	}
}

// all is the nodes, in no order.
func (t *nodeTable) all() []disk.Node {
	nodes := make([]disk.Node, 0, t.live.Load())
	for i := range t.slots {
		if e := t.slots[i].Load(); e != nil && e.node != nil {
			nodes = append(nodes, e.node)
		}
	}
	return nodes
}
