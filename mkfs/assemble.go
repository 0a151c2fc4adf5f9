package mkfs

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// extent is a data extent and the one place in a file that refers to it.
type extent struct {
	at     disk.Logical
	file   uint64 // offset in the file
	n      uint32 // bytes on disk
	ram    uint32 // bytes of the file, whole sectors
	ino    uint32 // inode number less 256
	subvol uint16
	comp   disk.Compression
}

// assembler gives out addresses and packs the trees of files and of checksums. It
// is the one goroutine that decides what the result looks like.
type assembler struct {
	plan   *plan
	t      *tree
	pool   *jobPool
	data   *region
	nodes  *nodeStore
	w      *writer
	csums  *csumPacker
	stats  *Result
	report func(files, bytes uint64)

	jobs    <-chan *job
	cur     *job
	next    int // file of cur
	extents []extent
	buf     items
}

// fileData is what a regular file's contents became.
type fileData struct {
	inline   []byte
	isInline bool
	comp     disk.Compression
	from, to int // range of assembler.extents
	xattrs   []xattr
}

// take waits for the next job and places what is in it.
func (a *assembler) take(ctx context.Context) error {
	a.release()
	select {
	case j, ok := <-a.jobs:
		if !ok {
			return context.Cause(ctx)
		}
		a.cur, a.next = j, 0
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-a.cur.ready
	if a.cur.err != nil {
		return a.cur.err
	}
	return a.place(a.cur)
}

// release says that the current job's files are packed.
func (a *assembler) release() {
	if a.cur != nil {
		a.pool.done(a.cur)
		a.cur = nil
	}
}

// file is the contents of the next regular file in order.
func (a *assembler) file(ctx context.Context, id inodeID) (fileData, error) {
	if a.cur == nil || a.next == len(a.cur.files) {
		if err := a.take(ctx); err != nil {
			return fileData{}, err
		}
	}
	f := &a.cur.files[a.next]
	a.next++
	if f.id != id {
		return fileData{}, fmt.Errorf("contents of %q came for %q", a.t.pathOf(f.id), a.t.pathOf(id))
	}
	d := fileData{f.inline, f.isInline, f.inlineComp, f.from, f.to, f.xattrs}
	size := uint64(a.t.inodes[id].size)
	if a.cur.n == 0 {
		a.report(1, size)
		return d, nil
	}
	for a.report(0, uint64(a.cur.n)); !a.cur.last; a.report(0, uint64(a.cur.n)) {
		if err := a.take(ctx); err != nil {
			return fileData{}, err
		}
		if a.cur.files[0].id != id {
			return fileData{}, fmt.Errorf("contents of %q came for %q", a.t.pathOf(a.cur.files[0].id), a.t.pathOf(id))
		}
		a.next = 1
	}
	d.to = len(a.extents)
	a.report(1, 0)
	return d, nil
}

// place gives a job's extents their addresses and has them written.
func (a *assembler) place(j *job) error {
	var segs []segment
	for k := range j.files {
		f := &j.files[k]
		i := &a.t.inodes[f.id]
		from := len(a.extents)
		for _, e := range j.extents[f.from:f.to] {
			if err := a.placePiece(j, e, i, &segs); err != nil {
				return &fileError{a.t.pathOf(f.id), err}
			}
		}
		f.from, f.to = from, len(a.extents)
	}
	j.extents = j.extents[:0]
	a.w.send(request{segs, func() { a.pool.done(j) }})
	return nil
}

// placePiece places one piece. What is compressed stays whole; plain contents may
// be split where a chunk ends, and grow the extent before them where they follow
// it.
func (a *assembler) placePiece(j *job, e jobPiece, i *inode, segs *[]segment) error {
	size := a.plan.Csum.Size()
	for e.n > 0 {
		at, c, got, err := a.data.take(uint64(e.n), e.comp != disk.CompressNone)
		if err != nil {
			return err
		}
		n := int(got)
		b := j.out[e.out : e.out+n]
		if k := len(*segs) - 1; k >= 0 && (*segs)[k].c == c && (*segs)[k].at+disk.Logical(len((*segs)[k].b)) == at && follows((*segs)[k].b, b) {
			old := (*segs)[k].b
			(*segs)[k].b = old[:len(old)+n]
		} else {
			*segs = append(*segs, segment{c, at, b})
		}
		if i.flags == 0 {
			first := e.out / sectorSize * size
			if err := a.csums.add(at, j.sums[first:first+n/sectorSize*size]); err != nil {
				return err
			}
		}
		ram := n
		if e.comp != disk.CompressNone {
			ram = e.ram
		}
		a.addExtent(extent{at: at, file: uint64(e.file), n: uint32(n), ram: uint32(ram), ino: i.num, subvol: i.owner, comp: e.comp})
		a.stats.Data += got
		e.out, e.n, e.file = e.out+n, e.n-n, e.file+int64(n)
	}
	return nil
}

// follows says whether b stands behind a in the same array.
func follows(a, b []byte) bool {
	return cap(a) > len(a) && len(b) > 0 && &a[:len(a)+1][len(a)] == &b[0]
}

// addExtent adds an extent, or lengthens the last one.
func (a *assembler) addExtent(e extent) {
	if k := len(a.extents) - 1; k >= 0 && e.comp == disk.CompressNone {
		p := &a.extents[k]
		if p.comp == disk.CompressNone && p.ino == e.ino && p.subvol == e.subvol && p.file+uint64(p.n) == e.file &&
			p.at+disk.Logical(p.n) == e.at && p.n+e.n <= maxExtent && a.sameChunk(p.at, e.at) {
			p.n += e.n
			p.ram += e.ram
			return
		}
	}
	a.extents = append(a.extents, e)
}

// sameChunk says whether an extent may reach from one address to the other: no
// extent crosses into another block group.
func (a *assembler) sameChunk(from, to disk.Logical) bool {
	c := a.data.cur
	return from >= c.Logical && to < c.End()
}

// csumPacker packs the checksum tree. One item holds the checksums of neighbouring
// sectors, as many as the kernel would put there.
type csumPacker struct {
	p     *packer
	size  int // of one checksum
	limit int // bytes of one item
	start disk.Logical
	next  disk.Logical
	sums  []byte
}

func newCsumPacker(f *nodeFormat, sink nodeSink) *csumPacker {
	size := f.csum.Size()
	// MAX_CSUM_ITEMS in file-item.c, Linux 6.18.
	count := min((disk.LeafDataSize(f.size)-2*disk.ItemHeaderSize)/size-1, sectorSize)
	return &csumPacker{p: newPacker(f, sink, disk.TreeCsum), size: size, limit: count * size}
}

// add adds the checksums of the sectors from at on; at rises.
func (c *csumPacker) add(at disk.Logical, sums []byte) error {
	for len(sums) > 0 {
		if len(c.sums) > 0 && (at != c.next || len(c.sums) == c.limit) {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if len(c.sums) == 0 {
			c.start = at
		}
		n := min(len(sums), c.limit-len(c.sums))
		c.sums = append(c.sums, sums[:n]...)
		sums = sums[n:]
		at += disk.Logical(n / c.size * sectorSize)
		c.next = at
	}
	return nil
}

func (c *csumPacker) flush() error {
	if len(c.sums) == 0 {
		return nil
	}
	k := disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum, Offset: uint64(c.start)}
	err := c.p.addBytes(k, c.sums)
	c.sums = c.sums[:0]
	return err
}

func (c *csumPacker) finish() (treeRoot, error) {
	if err := c.flush(); err != nil {
		return treeRoot{}, err
	}
	return c.p.finish()
}
