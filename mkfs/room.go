package mkfs

import (
	"errors"

	"gobtrfs/disk"
)

// room is how many bytes of data shall stay free.
func (p *plan) room() uint64 {
	if !p.Shrink {
		return 0
	}
	return p.Free
}

// freeData adds chunks for what the last one does not have of the room that was asked
// for.
func (m *maker) freeData() error {
	left := m.plan.room()
	if c := m.data.cur; c != nil {
		left -= min(left, c.Length-c.next)
	}
	for left > 0 {
		c, err := m.layout.addChunk(chunkOrder{flags: m.plan.dataFlags(), maxLength: left})
		if err != nil {
			return err
		}
		left -= min(left, c.Length)
	}
	return nil
}

// Free nodes of metadata in a shrunk filesystem, found by trying with Linux 6.18.
const (
	// commitNodes are enough to mount it, delete files and empty it, and resize it
	// when the image was made larger. A few more would not help: see below.
	commitNodes = 16
	// globalReserve is what Linux keeps for itself at least, however few it has
	// (btrfs_update_global_block_rsv); it keeps more when the trees that it must be
	// able to change at any time are larger.
	globalReserve = 368
	// createNodes are what it wants to promise beside that before it makes a file.
	// With 224 it makes one.
	createNodes = 288
	// bytesPerMetadata is how many bytes of new files bring one of metadata: enough
	// for files of 8 KiB, and for the Go distribution, as Linux fills its leaves.
	bytesPerMetadata = 8
)

// freeMetadata is how many bytes of metadata a shrunk filesystem has free, when trees
// of so many nodes count for the reserve.
func (m *maker) freeMetadata(reserved uint64) uint64 {
	node := uint64(m.plan.format.size)
	if m.plan.Free == 0 {
		return commitNodes * node
	}
	return (max(globalReserve, reserved)+createNodes)*node + m.plan.Free/bytesPerMetadata
}

// placeMetadata finds chunks for the virtual metadata region, and some more so
// that the filesystem can be written to.
func (m *maker) placeMetadata(l *layout, meta *region, counts *[tailTrees]uint64) error {
	node := uint64(m.plan.format.size)
	left := meta.count
	want := max(left+64*node+left/64, 16*mib)
	if m.plan.Shrink {
		reserved := counts[tailExtent] + counts[tailRoot] + counts[tailGroups] + counts[tailFree]
		for _, r := range m.roots {
			if r.owner == disk.TreeCsum {
				reserved += r.nodes
			}
		}
		want = left + m.freeMetadata(reserved)
	}
	l.nextLogical = uint64(meta.base)
	for want > 0 {
		c, err := l.addChunk(chunkOrder{flags: m.plan.metadataFlags(), maxLength: want})
		if err != nil {
			if left == 0 && errors.Is(err, ErrNoSpace) && !m.plan.Shrink {
				return nil // no more than what is needed
			}
			return err
		}
		c.next = min(left, c.Length)
		c.used = c.next
		left -= c.next
		want -= min(want, c.Length)
	}
	return nil
}

// shrinkDevices cuts every device off behind its last dev extent.
func (l *layout) shrinkDevices(slack uint64) {
	const smallest = 4 * mib
	for _, d := range l.devices {
		end := uint64(smallest)
		if n := len(d.taken); n > 0 {
			end = max(end, d.taken[n-1].end)
		}
		d.size = min(d.size, roundUp(end+slack, sectorSize))
	}
}
