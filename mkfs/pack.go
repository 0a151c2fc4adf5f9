package mkfs

import (
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// nodeFormat is what all nodes of a filesystem have in common.
type nodeFormat struct {
	size      int
	fsid      disk.UUID
	chunkTree disk.UUID
	csum      disk.CsumType
}

// generation is the transaction that everything is made in.
const generation disk.TransID = 1

// nodeSink takes the nodes that a packer finishes.
type nodeSink interface {
	// place gives the address for a node of the tree.
	place(owner disk.ObjectID, level int, first disk.Key) (disk.Logical, error)
	// buffer is a node to fill in.
	buffer() disk.Node
	// put writes a finished node and takes its buffer back.
	put(at disk.Logical, n disk.Node) error
}

// packer builds one tree from items that arrive in the order of their keys. Each
// leaf is filled up before the next one is begun, and a node is finished, its
// address chosen and its checksum made, as soon as it is full. It holds one
// unfinished node a level.
type packer struct {
	format *nodeFormat
	sink   nodeSink
	owner  disk.ObjectID

	levels []disk.Node // unfinished nodes by level
	last   disk.Key
	nodes  uint64 // finished
}

func newPacker(f *nodeFormat, sink nodeSink, owner disk.ObjectID) *packer {
	return &packer{format: f, sink: sink, owner: owner}
}

// treeRoot is where a finished tree is.
type treeRoot struct {
	owner disk.ObjectID
	at    disk.Logical
	level int
	nodes uint64
}

// maxItem is the largest item that fits into a leaf.
func (f *nodeFormat) maxItem() int { return disk.LeafDataSize(f.size) - disk.ItemHeaderSize }

// add makes an item of size bytes and returns its data to fill in before the next
// call. The data is not cleared.
func (p *packer) add(k disk.Key, size int) ([]byte, error) {
	if size > p.format.maxItem() {
		return nil, fmt.Errorf("item %v of %d bytes does not fit into a node of %d", k, size, p.format.size)
	}
	if len(p.levels) > 0 && p.levels[0].NrItems() > 0 {
		if !p.last.Less(k) {
			return nil, fmt.Errorf("tree %v: key %v after %v", p.owner, k, p.last)
		}
		if p.levels[0].LeafFree() < size+disk.ItemHeaderSize {
			if err := p.flush(0); err != nil {
				return nil, err
			}
		}
	}
	leaf := p.node(0)
	p.last = k
	n := leaf.NrItems()
	end := disk.LeafDataSize(len(leaf))
	if n > 0 {
		end = leaf.ItemOffset(n - 1)
	}
	leaf.SetItem(n, k, end-size, size)
	leaf.SetNrItems(n + 1)
	return leaf[disk.HeaderSize+end-size : disk.HeaderSize+end : disk.HeaderSize+end], nil
}

// addBytes is add with the data at hand.
func (p *packer) addBytes(k disk.Key, data []byte) error {
	b, err := p.add(k, len(data))
	if err == nil {
		copy(b, data)
	}
	return err
}

// node is the unfinished node of a level.
func (p *packer) node(level int) disk.Node {
	if level == len(p.levels) {
		p.levels = append(p.levels, nil)
	}
	if p.levels[level] == nil {
		n := p.sink.buffer()
		n.InitHeader(0, p.format.fsid, p.format.chunkTree, generation, p.owner, level)
		p.levels[level] = n
	}
	return p.levels[level]
}

// flush finishes the node of a level and points to it from the level above.
func (p *packer) flush(level int) error {
	first := p.levels[level].Key(0)
	at, err := p.finishNode(level)
	if err != nil {
		return err
	}
	if level+1 == disk.MaxLevel {
		return fmt.Errorf("tree %v is too high", p.owner)
	}
	if level+1 < len(p.levels) && p.levels[level+1] != nil && p.levels[level+1].NrItems() == disk.MaxPtrs(p.format.size) {
		if err := p.flush(level + 1); err != nil {
			return err
		}
	}
	up := p.node(level + 1)
	n := up.NrItems()
	up.SetPtr(n, first, at, generation)
	up.SetNrItems(n + 1)
	return nil
}

// finishNode gives the node its address and checksum and hands it on.
func (p *packer) finishNode(level int) (disk.Logical, error) {
	n := p.levels[level]
	var first disk.Key
	if n.NrItems() > 0 {
		first = n.Key(0)
	}
	at, err := p.sink.place(p.owner, level, first)
	if err != nil {
		return 0, err
	}
	n.SetBytenr(at)
	sum := csum.Sum(p.format.csum, n.Body())
	copy(n, sum[:])
	p.levels[level] = nil
	p.nodes++
	return at, p.sink.put(at, n)
}

// finish closes the tree. A tree without items is one empty leaf.
func (p *packer) finish() (treeRoot, error) {
	p.node(0)
	for level := 0; ; level++ {
		if level == len(p.levels)-1 {
			at, err := p.finishNode(level)
			return treeRoot{p.owner, at, level, p.nodes}, err
		}
		if err := p.flush(level); err != nil {
			return treeRoot{}, err
		}
	}
}

// packCounter computes how many nodes a packer needs, from the sizes alone.
type packCounter struct {
	size   int
	leaves uint64
	free   int
}

func (c *packCounter) add(size int) {
	need := size + disk.ItemHeaderSize
	if c.leaves == 0 || c.free < need {
		c.leaves++
		c.free = disk.LeafDataSize(c.size)
	}
	c.free -= need
}

// nodes is the number of nodes of the whole tree.
func (c *packCounter) nodes() uint64 {
	level := max(c.leaves, 1)
	total := level
	for per := uint64(disk.MaxPtrs(c.size)); level > 1; total += level {
		level = (level + per - 1) / per
	}
	return total
}
