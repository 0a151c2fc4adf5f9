package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// Mending bad copies.
//
// Who reads and meets a bad copy does not overwrite it: what it read may belong
// to a commit that is not the last one any more, and its place to something
// else by now. It says which range it suspects. Who knows what is committed, and
// that nobody is about to write there, then calls Mend, which looks for itself.

// Suspected is told of a range of which a copy was bad or could not be read,
// also where no copy was good. It is called by any reader, maybe with a row
// locked: it must not block or read.
type Suspected func(l disk.Logical, n int)

// suspicions are the ranges that were suspected before there was anybody to
// tell.
type suspicions struct {
	mu   sync.Mutex
	tell Suspected            // protected by mu; nil: nobody yet
	kept map[disk.Logical]int // protected by mu; by address, the length
}

// maxKept bounds the ranges that are kept. Who opens a filesystem reads little.
const maxKept = 256

// SetSuspected has s told of what is to be mended, from Open on. Bad copies are
// then not counted before Mend has seen them.
//
// REQUIRES: it is called once, and nobody has taken errors.
func (v *Volume) SetSuspected(s Suspected) {
	v.suspicions.mu.Lock()
	kept := v.suspicions.kept
	v.suspicions.kept, v.suspicions.tell = nil, s
	for _, d := range v.devices {
		d.errs.corruption.Store(0)
		d.errs.generation.Store(0)
	}
	v.suspicions.mu.Unlock()
	for _, l := range slices.Sorted(maps.Keys(kept)) {
		s(l, kept[l])
	}
}

// suspect tells of a range after failures that were no mere absence.
func (v *Volume) suspect(c *chunk, off uint64, n int, bad *failures) {
	if !bad.worthTelling() {
		return
	}
	l, s := c.Logical+disk.Logical(off), &v.suspicions
	s.mu.Lock()
	tell := s.tell
	if tell == nil {
		bad.count(v)
		if s.kept == nil {
			s.kept = make(map[disk.Logical]int)
		}
		if len(s.kept) < maxKept {
			s.kept[l] = max(n, s.kept[l])
		}
	}
	s.mu.Unlock()
	if tell != nil {
		tell(l, n)
	}
}

// count counts bad copies on the devices that hold them.
func (f *failures) count(v *Volume) {
	for _, err := range f.errs {
		var e *CorruptError
		if errors.As(err, &e) {
			v.countBad(e)
		}
	}
}

// Mend reads every copy of n bytes at l, and overwrites those that judge does
// not accept, or that cannot be read, with a good one, or with what parity
// says. n is what judge can judge: a tree block or a sector of data. Bad copies
// are counted. Copies on devices that are away, or are never written, stay as
// they are. With a good copy the error is nil; whether writing failed is told in
// Repair.Err.
//
// REQUIRES: nobody writes the range.
func (v *Volume) Mend(ctx context.Context, l disk.Logical, n int, judge func([]byte) error) (Repair, error) {
	r := Repair{Logical: l, Length: n}
	c, off, err := v.find(l, n)
	if err != nil {
		return r, err
	}
	if c.remapped || len(v.readOnly) > 0 {
		return r, fmt.Errorf("mend logical %d: %w", uint64(l), ErrReadOnly)
	}
	m := mending{v: v, c: c, off: off, judge: judge, buf: make([]byte, n)}
	for mirror := 1; mirror <= c.mirrors(); mirror++ {
		if mirror > c.profile.Copies && (m.good != nil || len(m.bad) == 0) {
			break // reconstructions are for want of a good copy
		}
		if err := m.look(ctx, mirror, &r); err != nil {
			return r, err
		}
	}
	if m.good == nil {
		return r, m.failed.err(l)
	}
	for _, mirror := range m.bad {
		if err := m.rewrite(ctx, mirror); err != nil {
			r.Err = errors.Join(r.Err, err)
			continue
		}
		r.Rewritten++
	}
	if len(m.bad) > 0 && v.events.CopiesRewritten != nil {
		v.events.CopiesRewritten(r)
	}
	return r, nil
}

// mending is one range while it is looked at.
type mending struct {
	v      *Volume
	c      *chunk
	off    uint64
	judge  func([]byte) error
	buf    []byte
	good   []byte // nil: none yet
	bad    []int  // copies to overwrite
	failed failures
}

// look judges one mirror.
func (m *mending) look(ctx context.Context, mirror int, r *Repair) error {
	err := m.v.readMirror(ctx, m.c, m.off, m.buf, mirror)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		if err = m.judge(m.buf); err != nil {
			e := m.c.corrupt(m.off, mirror, "bad copy", err)
			m.v.countBad(e)
			err = e
		}
	}
	switch {
	case err == nil && m.good == nil:
		m.good, r.Mirror = bytes.Clone(m.buf), mirror
	case err != nil:
		m.failed.errs = append(m.failed.errs, err)
		if mirror <= m.c.profile.Copies && m.c.writable(m.off, mirror) {
			m.bad = append(m.bad, mirror)
		}
	}
	return nil
}

// writable says whether the device takes part in writing that holds the first
// byte of a mirror.
func (c *chunk) writable(off uint64, mirror int) bool {
	return c.devs[c.locate(off, mirror).stripe].writable()
}

// rewrite overwrites a copy and reads it back. With parity the row is locked:
// who changes another part of it reads this one.
func (m *mending) rewrite(ctx context.Context, mirror int) error {
	c, off, good := m.c, m.off, m.good
	if c.profile.Parity > 0 {
		unlock, err := m.v.rows.lock(ctx, rowKey{c.Logical, off / (uint64(c.data) * disk.StripeLen)})
		if err != nil {
			return err
		}
		defer unlock()
	}
	for len(good) > 0 {
		s := c.locate(off, mirror)
		n := min(s.n, uint64(len(good)))
		if err := c.devs[s.stripe].write(good[:n], s.phys); err != nil {
			return err
		}
		off, good = off+n, good[n:]
	}
	if err := m.v.readMirror(ctx, c, m.off, m.buf, mirror); err != nil {
		return err
	}
	if !bytes.Equal(m.buf, m.good) {
		return c.corrupt(m.off, mirror, "the device does not keep what is written", nil)
	}
	return nil
}
