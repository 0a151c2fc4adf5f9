package check

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/volume"
)

// Sizes of reads: neighbouring tree blocks are read together.
const (
	runBytes = 256 << 10 // longest read
	runGap   = 32 << 10  // of unwanted bytes between two wanted blocks
)

// readRun is a piece of the address space that holds tree blocks lo to hi of a
// sorted list.
type readRun struct{ lo, hi int }

// scanner reads tree blocks in physical order, in parallel.
type scanner struct {
	vol      *volume.Volume
	sb       *disk.Superblock
	geo      disk.Geometry
	fsids    []disk.UUID
	find     *collector
	stale    map[disk.DevID]bool
	workers  int
	progress func(nodes, bytes uint64)
	readers  []runReader // one for each goroutine; their buffers are used again
}

// visitor is called for each tree block that could be read, on one of the
// scanner's goroutines, w being its number. The node is only valid during the
// call; i is its place in the list of links.
type visitor func(w, i int, n disk.Node)

// scan reads the blocks of links, which are sorted by address. failed is called
// for each one that no mirror has.
func (s *scanner) scan(ctx context.Context, links []link, visit visitor, failed func(i int)) error {
	runs := s.runs(links)
	workers := min(s.workers, len(runs))
	for len(s.readers) < workers {
		s.readers = append(s.readers, runReader{})
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			r := &s.readers[w]
			r.s, r.w, r.visit, r.failed = s, w, visit, failed
			for {
				i := int(next.Add(1)) - 1
				if i >= len(runs) || ctx.Err() != nil {
					return
				}
				if err := r.read(ctx, links, runs[i]); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// runs groups the links into reads. Links outside every chunk are runs of their
// own, which fail when they are read.
func (s *scanner) runs(links []link) []readRun {
	var out []readRun
	size := disk.Logical(s.geo.NodeSize)
	var chunk *disk.ChunkMapping
	for i := range links {
		a := links[i].addr
		if len(out) > 0 && chunk != nil && a+size <= chunk.End() && a+size > a {
			last := &out[len(out)-1]
			first, end := links[last.lo].addr, links[i-1].addr+size
			if a <= end+runGap && a+size-first <= runBytes {
				last.hi = i + 1
				continue
			}
		}
		out = append(out, readRun{i, i + 1})
		chunk, _ = s.vol.Chunk(a)
		if chunk != nil && (a+size > chunk.End() || a+size < a) {
			chunk = nil
		}
	}
	return out
}

// runReader is one goroutine's state.
type runReader struct {
	s      *scanner
	w      int
	visit  visitor
	failed func(i int)
	buf    []byte
	single []byte
}

// read reads the blocks of one run and visits them.
func (r *runReader) read(ctx context.Context, links []link, part readRun) error {
	size := r.s.geo.NodeSize
	start := links[part.lo].addr
	n := int(links[part.hi-1].addr-start) + size
	if cap(r.buf) < n {
		r.buf = make([]byte, 1<<bits.Len(uint(n-1)))
	}
	buf := r.buf[:n]
	whole := r.s.vol.Mirrors(start) > 0 && r.s.vol.ReadMirror(ctx, start, buf, 1) == nil
	for i := part.lo; i < part.hi; i++ {
		at := &links[i]
		if whole {
			o := int(at.addr - start)
			node := disk.Node(buf[o : o+size])
			if r.s.verify(at, node) == nil {
				r.visit(r.w, i, node)
				continue
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if node := r.careful(ctx, at); node != nil {
			r.visit(r.w, i, node)
		} else {
			r.failed(i)
		}
	}
	if r.s.progress != nil {
		r.s.progress(uint64(part.hi-part.lo), uint64((part.hi-part.lo)*size))
	}
	return nil
}

// careful tries the mirrors of a block one by one and says what is wrong with
// each. If none is wholly right, the first that has the right checksum and
// address is still looked at, because it is what the device was given to keep.
func (r *runReader) careful(ctx context.Context, at *link) disk.Node {
	s := r.s
	mirrors := s.vol.Mirrors(at.addr)
	if mirrors == 0 || uint64(at.addr)%uint64(s.geo.SectorSize) != 0 {
		s.find.add(Finding{Code: CodeNodeUnreadable, Place: at.place(),
			What: fmt.Sprintf("%s points to a tree block that is in no chunk", at.source())})
		return nil
	}
	if r.single == nil {
		r.single = make([]byte, s.geo.NodeSize)
	}
	var bad []copyError
	second, secondErr := 0, error(nil)
	for m := 1; m <= mirrors; m++ {
		err := s.vol.ReadMirror(ctx, at.addr, r.single, m)
		if err == nil {
			if err = s.verify(at, r.single); err == nil {
				s.reportCopies(at, bad, m)
				return r.single
			}
			var soft *softError
			if errors.As(err, &soft) && second == 0 {
				second, secondErr = m, err
			}
		}
		bad = append(bad, copyError{m, err})
	}
	if second > 0 && s.vol.ReadMirror(ctx, at.addr, r.single, second) == nil {
		var soft *softError
		errors.As(secondErr, &soft)
		s.find.add(Finding{Code: soft.code, Place: at.place(), What: soft.what, Expected: soft.want, Found: soft.got})
		return r.single
	}
	s.find.add(Finding{Code: CodeNodeUnreadable, Place: s.locate(at.place(), 1),
		What: fmt.Sprintf("%s points to a tree block of which no copy is good: %v", at.source(), bad[0].err)})
	return nil
}

// copyError is what is wrong with one mirror.
type copyError struct {
	mirror int
	err    error
}

// reportCopies reports bad copies of a block of which good is a good one.
// Missing devices have been reported by themselves.
func (s *scanner) reportCopies(at *link, bad []copyError, good int) {
	for _, b := range bad {
		if errors.Is(b.err, volume.ErrMissingDevice) {
			continue
		}
		p, severity := s.locate(at.place(), b.mirror), Error
		if s.stale[p.Dev] {
			severity = Warning // it missed writes, which has been reported
		}
		s.find.add(Finding{Code: CodeNodeCopy, Severity: severity, Place: p,
			What: fmt.Sprintf("a copy of a tree block is bad, copy %d is good: %v", good, b.err)})
	}
}

// locate adds where mirror's copy of p.Logical stands.
func (s *scanner) locate(p Place, mirror int) Place {
	p.Mirror = mirror
	places, err := s.vol.Map(p.Logical, uint64(s.geo.SectorSize))
	if err != nil {
		return p
	}
	for _, at := range places {
		if at.Mirror == mirror {
			p.Dev, p.Physical = at.Dev, at.Off
			break
		}
	}
	return p
}

// softError is a difference between a tree block and what points to it. The
// block itself is what was written there.
type softError struct {
	code            Code
	what, want, got string
}

func (e *softError) Error() string { return fmt.Sprintf("%s %s, want %s", e.what, e.got, e.want) }

// verify checks one copy of a tree block against what points to it.
func (s *scanner) verify(at *link, n disk.Node) error {
	switch {
	case !csum.Verify(s.geo.CsumType, n.Csum(), n.Body()):
		return fmt.Errorf("checksum mismatch")
	case n.Bytenr() != at.addr:
		return fmt.Errorf("it says that it stands at %d", uint64(n.Bytenr()))
	case !s.knownFSID(n.FSID()):
		return fmt.Errorf("it belongs to filesystem %v", n.FSID())
	}
	if err := n.ValidateLayout(); err != nil {
		return err
	}
	if n.Level() != int(at.level) {
		return fmt.Errorf("its level is %d, %s wants %d", n.Level(), at.source(), at.level)
	}
	if n.Generation() != at.gen {
		return &softError{CodeNodeGeneration, "a tree block has not the generation that " + at.source() + " wants",
			fmt.Sprint(uint64(at.gen)), fmt.Sprint(uint64(n.Generation()))}
	}
	if !at.root && n.NrItems() > 0 && n.Key(0) != at.first {
		return &softError{CodeNodeParent, "the first key of a tree block is not the key of its parent's pointer", at.first.String(), n.Key(0).String()}
	}
	return nil
}

func (s *scanner) knownFSID(u disk.UUID) bool {
	for _, f := range s.fsids {
		if f == u {
			return true
		}
	}
	return false
}

// source says in words what points to the block.
func (l *link) source() string {
	if l.root {
		return fmt.Sprintf("the root of tree %v", l.owner)
	}
	return fmt.Sprintf("tree block %d of tree %v", uint64(l.parent), l.owner)
}

func (l *link) place() Place {
	p := Place{Logical: l.addr, Tree: l.owner}
	if !l.root {
		k := l.first
		p.Key = &k
	}
	return p
}
