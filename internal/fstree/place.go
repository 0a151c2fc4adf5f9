package fstree

import (
	"context"
	"errors"
	"slices"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

const (
	// jobBytes is what one worker checksums and writes at a time.
	jobBytes = 1 << 20
	// togetherBytes bounds small extents that share a search for a place and a
	// write: the largest that the allocator counts as small.
	togetherBytes = 128 << 10
)

// workers run the jobs of all flushes, a bounded number at a time. A job waits
// for no other job.
type workers chan struct{}

// do runs n jobs and returns their first error.
func (p workers) do(n int, job func(i int) error) error {
	if n == 1 {
		p <- struct{}{}
		defer func() { <-p }()
		return job(0)
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		p <- struct{}{}
		wg.Go(func() {
			defer func() { <-p }()
			errs[i] = job(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// piece is contents that become one extent, or several if no hole is long
// enough.
type piece struct {
	file *flight
	off  uint64           // in the file
	ram  uint64           // bytes of the file, whole sectors
	comp disk.Compression // of b
	b    [][]byte         // what goes to the device: whole sectors each
	n    uint64           // bytes of b
	raw  [][]byte         // of compressed contents: what they were
}

// placed is an extent that is on the device and in no tree yet.
type placed struct {
	off, ram uint64
	comp     disk.Compression
	addr     disk.Logical
	n        uint64
	sums     []byte // nil: it has no checksums
}

// placer gives pieces of several files places, and fills them.
type placer struct {
	w        *Writer
	writes   []placedWrite
	taken    []space.Range // all places
	promised uint64        // bytes that are promised and not placed
}

// placedWrite is one write to the device: the pieces of it lie behind each
// other.
type placedWrite struct {
	addr  disk.Logical
	parts []part
}

// part is a stretch of a write that belongs to one extent.
type part struct {
	b    [][]byte
	n    uint64
	sums []byte // room for its checksums; nil: none
}

// place finds places for pieces and enters the extents in their files.
func (p *placer) place(ctx context.Context, pieces []piece) error {
	for len(pieces) > 0 {
		n, sum := 0, uint64(0)
		for n < len(pieces) && (n == 0 || sum+pieces[n].n <= togetherBytes) {
			sum += pieces[n].n
			n++
		}
		if n > 1 {
			addr, _, err := p.alloc(ctx, sum, sum)
			switch {
			case err == nil:
				p.enter(addr, pieces[:n])
				pieces = pieces[n:]
				continue
			case !errors.Is(err, space.ErrNoSpace):
				return err
			}
		}
		// Alone, or no hole has room for all of them.
		for i := range pieces[:n] {
			if err := p.placeOne(ctx, &pieces[i]); err != nil {
				return err
			}
		}
		pieces = pieces[n:]
	}
	return nil
}

// placeOne places one piece. Plain contents may be cut; compressed ones that
// fit nowhere stay plain.
func (p *placer) placeOne(ctx context.Context, q *piece) error {
	if q.comp != disk.CompressNone {
		addr, _, err := p.alloc(ctx, q.n, q.n)
		if err == nil {
			p.enter(addr, []piece{*q})
			return nil
		}
		if !errors.Is(err, space.ErrNoSpace) {
			return err
		}
		q.comp, q.b, q.n = disk.CompressNone, q.raw, q.ram
	}
	for q.n > 0 {
		addr, n, err := p.alloc(ctx, q.n, p.w.tx.SectorSize())
		if err != nil {
			return err
		}
		head := piece{file: q.file, off: q.off, ram: n, n: n}
		head.b, q.b = splitBytes(q.b, n)
		q.off, q.ram, q.n = q.off+n, q.ram-n, q.n-n
		p.enter(addr, []piece{head})
	}
	return nil
}

func (p *placer) alloc(ctx context.Context, want, least uint64) (disk.Logical, uint64, error) {
	addr, n, err := p.w.tx.AllocData(ctx, want, least)
	if err == nil {
		p.promised -= min(p.promised, n)
		p.taken = append(p.taken, space.Range{Start: addr, Length: space.Bytes(n)})
	}
	return addr, n, err
}

// enter makes extents of pieces that lie behind each other from addr on.
func (p *placer) enter(addr disk.Logical, pieces []piece) {
	sector, size := p.w.tx.SectorSize(), uint64(p.w.base.super.CsumType.Size())
	write := placedWrite{addr: addr}
	for i := range pieces {
		q := &pieces[i]
		x := placed{off: q.off, ram: q.ram, comp: q.comp, addr: addr, n: q.n}
		if q.file.sums {
			x.sums = make([]byte, q.n/sector*size)
		}
		q.file.placed = append(q.file.placed, x)
		addr += disk.Logical(q.n)
		write.parts = append(write.parts, part{b: q.b, n: q.n, sums: x.sums})
	}
	p.writes = append(p.writes, write)
}

// splitBytes cuts off the first n bytes.
func splitBytes(b [][]byte, n uint64) (head, tail [][]byte) {
	for i := range b {
		if k := uint64(len(b[i])); k <= n {
			n -= k
			continue
		}
		if n == 0 {
			return b[:i], b[i:]
		}
		head = append(slices.Clone(b[:i]), b[i][:n])
		return head, append([][]byte{b[i][n:]}, b[i+1:]...)
	}
	return b, nil
}

// job is one write of jobBytes or so.
type job struct {
	addr disk.Logical
	b    []byte
	sums []byte // where the checksums go; nil: none
	many []part // instead of b and sums: small parts behind each other
}

// fill checksums all contents and writes them.
func (p *placer) fill(ctx context.Context) error {
	sector, size := p.w.tx.SectorSize(), uint64(p.w.base.super.CsumType.Size())
	var jobs []job
	for _, w := range p.writes {
		if len(w.parts) > 1 {
			jobs = append(jobs, job{addr: w.addr, many: w.parts})
			continue
		}
		at, sums := w.addr, w.parts[0].sums
		for _, b := range w.parts[0].b {
			for len(b) > 0 {
				j := job{addr: at, b: b[:min(len(b), jobBytes)]}
				if sums != nil {
					n := uint64(len(j.b)) / sector * size
					j.sums, sums = sums[:n], sums[n:]
				}
				jobs = append(jobs, j)
				at, b = at+disk.Logical(len(j.b)), b[len(j.b):]
			}
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	return p.w.workers.do(len(jobs), func(i int) error { return p.run(ctx, &jobs[i]) })
}

func (p *placer) run(ctx context.Context, j *job) error {
	b := j.b
	p.sum(j.sums, b)
	if len(j.many) > 0 {
		buf := scratch.Get().(*[maxCompressed]byte)
		defer scratch.Put(buf)
		b = buf[:0]
		for _, part := range j.many {
			begin := len(b)
			for _, c := range part.b {
				b = append(b, c...)
			}
			p.sum(part.sums, b[begin:])
		}
	}
	return p.w.tx.WriteData(ctx, j.addr, b)
}

func (p *placer) sum(dst, b []byte) {
	if dst != nil {
		csum.AppendBlocks(dst[:0], p.w.base.super.CsumType, b, int(p.w.tx.SectorSize()))
	}
}

// undo gives all places back after a failure and has their bytes promised
// again, for the next attempt.
func (p *placer) undo(ctx context.Context, cause error) error {
	for _, r := range p.taken {
		err := p.w.tx.FreeData(r.Start, uint64(r.Length))
		if err == nil {
			err = p.w.tx.ReserveData(ctx, uint64(r.Length), space.ClassNoWait)
		}
		if err != nil { // somebody was faster: what waits would not fit any more
			return p.w.tx.Fail(errors.Join(cause, err))
		}
	}
	return cause
}

// encode compresses the contents of a run and makes pieces of them: those of
// 128 KiB, cut where the file's offset is a multiple of that, that get smaller
// by a sector; and plain ones. failed says that some did not.
func (f *flight) encode(w *Writer, r *run) (pieces []piece, failed bool) {
	type block struct {
		piece
		ok, tried bool
	}
	var blocks []block
	rest := r.b
	for off := r.from; off < r.to; {
		n := min(r.to-off, compress.MaxUncompressed-off%compress.MaxUncompressed)
		var b [][]byte
		b, rest = splitBytes(rest, n)
		blocks = append(blocks, block{piece: piece{file: f, off: off, ram: n, b: b, n: n, raw: b}})
		off += n
	}
	sector := w.tx.SectorSize()
	_ = w.workers.do(len(blocks), func(i int) error {
		b := &blocks[i]
		// A single sector cannot get smaller by one.
		if b.n <= sector {
			return nil
		}
		src := b.raw[0]
		if len(b.raw) > 1 {
			buf := scratch.Get().(*[maxCompressed]byte)
			defer scratch.Put(buf)
			src = buf[:0]
			for _, c := range b.raw {
				src = append(src, c...)
			}
		}
		src = src[:min(uint64(len(src)), f.size-b.off)]
		if !f.force && !compress.Compressible(src) {
			return nil
		}
		b.tried = true
		out, ok := f.encoder.Compress(nil, src)
		if !ok {
			return nil
		}
		n := roundUp(uint64(len(out)), sector)
		out = append(out, make([]byte, n-uint64(len(out)))...)
		b.ok, b.comp, b.b, b.n = true, f.encoder.Spec().Algorithm, [][]byte{out}, n
		return nil
	})
	for i := range blocks {
		b := &blocks[i]
		failed = failed || b.tried && !b.ok
		if n := len(pieces); !b.ok && n > 0 && pieces[n-1].comp == disk.CompressNone {
			last := &pieces[n-1]
			last.b, last.n, last.ram = append(last.b[:len(last.b):len(last.b)], b.raw...), last.n+b.n, last.ram+b.ram
			continue
		}
		pieces = append(pieces, b.piece)
	}
	return pieces, failed
}

// plain makes pieces of a run as it is.
func (f *flight) plain(r *run) (pieces []piece) {
	rest := r.b
	for off := r.from; off < r.to; {
		n := min(r.to-off, txn.MaxDataExtent)
		var b [][]byte
		b, rest = splitBytes(rest, n)
		pieces = append(pieces, piece{file: f, off: off, ram: n, b: b, n: n})
		off += n
	}
	return pieces
}
