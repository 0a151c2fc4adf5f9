package btree

import (
	"encoding/binary"

	"gobtrfs/disk"
)

// The functions here move items and pointers between private nodes. They rely
// on the caller for room, and keep the layout that disk.Node.ValidateLayout
// asks for: data grows down from the end of the node without gaps.

// dataEnd is where the data of the first n items starts, counted from the end
// of the header: lower slots lie above it.
func dataEnd(n disk.Node, items int) int {
	if items == 0 {
		return disk.LeafDataSize(len(n))
	}
	return n.ItemOffset(items - 1)
}

// headers is the bytes of the item headers from slot i to slot j.
func headers(n disk.Node, i, j int) []byte {
	return n[disk.HeaderSize+i*disk.ItemHeaderSize : disk.HeaderSize+j*disk.ItemHeaderSize]
}

// shiftOffsets moves where the data of the slots from i to j is said to be.
func shiftOffsets(n disk.Node, i, j, by int) {
	for b := headers(n, i, j); len(b) >= disk.ItemHeaderSize; b = b[disk.ItemHeaderSize:] {
		o := b[disk.KeySize : disk.KeySize+4]
		binary.LittleEndian.PutUint32(o, binary.LittleEndian.Uint32(o)+uint32(by))
	}
}

// insertItem adds an item at slot.
func insertItem(n disk.Node, slot int, k disk.Key, data []byte) {
	count := n.NrItems()
	low, at := dataEnd(n, count), dataEnd(n, slot)
	d := n[disk.HeaderSize:]
	copy(d[low-len(data):], d[low:at])
	copy(headers(n, slot+1, count+1), headers(n, slot, count))
	shiftOffsets(n, slot+1, count+1, -len(data))
	copy(d[at-len(data):at], data)
	n.SetItem(slot, k, at-len(data), len(data))
	n.SetNrItems(count + 1)
}

// removeItems takes out c items from slot on.
func removeItems(n disk.Node, slot, c int) {
	count := n.NrItems()
	from, to := dataEnd(n, slot), dataEnd(n, slot+c)
	low := dataEnd(n, count)
	d := n[disk.HeaderSize:]
	gap := from - to
	copy(d[low+gap:from], d[low:to])
	copy(headers(n, slot, count-c), headers(n, slot+c, count))
	shiftOffsets(n, slot, count-c, gap)
	n.SetNrItems(count - c)
	// What is no longer used must not reach the disk.
	clear(headers(n, count-c, count))
	clear(d[low : low+gap])
}

// moveTail moves the items of a from slot at on to the front of b.
func moveTail(a, b disk.Node, at int) {
	c, have := a.NrItems()-at, b.NrItems()
	from, to := dataEnd(a, at), dataEnd(a, a.NrItems())
	size := from - to
	d := b[disk.HeaderSize:]
	low := dataEnd(b, have)
	copy(d[low-size:], d[low:])
	copy(headers(b, c, have+c), headers(b, 0, have))
	shiftOffsets(b, c, have+c, -size)
	end := disk.LeafDataSize(len(b))
	copy(d[end-size:end], a[disk.HeaderSize+to:disk.HeaderSize+from])
	copy(headers(b, 0, c), headers(a, at, at+c))
	shiftOffsets(b, 0, c, end-from)
	b.SetNrItems(have + c)
	removeItems(a, at, c)
}

// moveHead moves the first c items of b behind those of a.
func moveHead(a, b disk.Node, c int) {
	if c == 0 {
		return
	}
	have := a.NrItems()
	low := dataEnd(a, have)
	end, to := disk.LeafDataSize(len(b)), dataEnd(b, c)
	size := end - to
	copy(a[disk.HeaderSize+low-size:disk.HeaderSize+low], b[disk.HeaderSize+to:disk.HeaderSize+end])
	copy(headers(a, have, have+c), headers(b, 0, c))
	shiftOffsets(a, have, have+c, low-end)
	a.SetNrItems(have + c)
	removeItems(b, 0, c)
}

// ptrs is the bytes of the pointers from slot i to slot j.
func ptrs(n disk.Node, i, j int) []byte {
	return n[disk.HeaderSize+i*disk.KeyPtrSize : disk.HeaderSize+j*disk.KeyPtrSize]
}

// insertPtr adds a pointer to child at slot.
func insertPtr(n disk.Node, slot int, k disk.Key, child disk.Node) {
	count := n.NrItems()
	copy(ptrs(n, slot+1, count+1), ptrs(n, slot, count))
	n.SetPtr(slot, k, child.Bytenr(), child.Generation())
	n.SetNrItems(count + 1)
}

// removePtr takes out the pointer at slot.
func removePtr(n disk.Node, slot int) {
	count := n.NrItems()
	copy(ptrs(n, slot, count-1), ptrs(n, slot+1, count))
	clear(ptrs(n, count-1, count))
	n.SetNrItems(count - 1)
}

// movePtrs moves the pointers of a from slot at on to the empty node b.
func movePtrs(a, b disk.Node, at int) {
	count := a.NrItems()
	copy(ptrs(b, 0, count-at), ptrs(a, at, count))
	clear(ptrs(a, at, count))
	a.SetNrItems(at)
	b.SetNrItems(count - at)
}

// appendPtrs moves all pointers of b behind those of a.
func appendPtrs(a, b disk.Node) {
	have, c := a.NrItems(), b.NrItems()
	copy(ptrs(a, have, have+c), ptrs(b, 0, c))
	a.SetNrItems(have + c)
	b.SetNrItems(0)
}
