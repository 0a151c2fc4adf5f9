package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"

	"gobtrfs"
	"gobtrfs/internal/oracle"
)

// crashWorkload is something to cut the power in.
type crashWorkload struct {
	name    string
	mkfs    []string
	size    int64 // of a device, in bytes
	devices int
	bulky   bool // most of it is space without contents, which is not read again
	run     func(c *crashRun) error
}

// crashRun is a workload under way.
type crashRun struct {
	ctx context.Context
	f   *btrfs.FS
	e   *btrfs.Editor
	w   *ourSide
	rnd *rand.Rand
}

func (c *crashRun) sync() error { return c.f.Sync(c.ctx) }

// churn is rounds of random operations, some kinds only.
func (c *crashRun) churn(rounds, ops int, kinds []opKind) error {
	return c.churnAnd(rounds, ops, kinds, func(*opMaker) error { return nil })
}

// churnAnd is churn with something after each operation.
func (c *crashRun) churnAnd(rounds, ops int, kinds []opKind, after func(gen *opMaker) error) error {
	// Files without copy on write may be torn by a crash: that is what they are.
	kinds = slices.DeleteFunc(kinds, func(k opKind) bool { return k.name == "setflags" })
	gen := &opMaker{rnd: c.rnd, kinds: kinds}
	for _, k := range kinds {
		gen.total += k.weight
	}
	for range rounds {
		for range c.rnd.IntN(ops) {
			o := gen.next()
			err := o.onOurs(c.ctx, c.w)
			gen.learn(o, err)
			if c.f.Failed() != nil {
				return err
			}
			if err := after(gen); err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
	}
	return nil
}

var crashWorkloads = []crashWorkload{
	{"names", []string{"-n", "4096"}, 256 << 20, 1, false, func(c *crashRun) error {
		return c.churn(8, 80, append(nameOps(), handleOps()...))
	}},
	{"overwrite", nil, 256 << 20, 1, false, func(c *crashRun) error {
		for i := range 4 {
			if err := c.e.Create(c.ctx, fmt.Sprint("/f", i), btrfs.Attr{Perm: 0o600}); err != nil {
				return err
			}
		}
		return c.churn(10, 25, append(contentOps(), attrOps()...))
	}},
	{"snapshots", []string{"-n", "4096", "-m", "single"}, 256 << 20, 1, false, func(c *crashRun) error {
		return c.churn(6, 50, append(subvolOps(), nameOps()...))
	}},
	{"fsync", nil, 256 << 20, 1, false, fsyncWorkload},
	{"chunks", nil, 1 << 30, 1, true, chunkWorkload},
	{"raid1", []string{"-d", "raid1", "-m", "raid1"}, 256 << 20, 2, false, func(c *crashRun) error {
		return c.churn(5, 40, opKinds())
	}},
	{"dup", []string{"-d", "dup", "-m", "dup"}, 256 << 20, 1, false, func(c *crashRun) error {
		return c.churn(5, 40, opKinds())
	}},
	{"full", []string{"-m", "single"}, 128 << 20, 1, true, fullWorkload},
	{"big transaction", []string{"-n", "4096"}, 256 << 20, 1, false, func(c *crashRun) error {
		for i := range 2000 {
			name := fmt.Sprint("/", i)
			if err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600}); err != nil {
				return err
			}
			if _, err := c.e.WriteAt(c.ctx, name, oracle.Text(uint64(i), i%3000), 0); err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
		for i := range 1500 {
			if err := c.e.Remove(c.ctx, fmt.Sprint("/", i)); err != nil {
				return err
			}
		}
		return c.sync()
	}},
	{"tiny", []string{"-M", "-n", "4096"}, 32 << 20, 1, false, func(c *crashRun) error {
		return c.churn(8, 60, opKinds())
	}},
}

// fsyncWorkload has an fsync after some of the operations: what was logged must
// be found like what was committed.
func fsyncWorkload(c *crashRun) error {
	return c.churnAnd(12, 60, opKinds(), func(gen *opMaker) error {
		// btrfs check dislikes orphans with attributes.
		if err := c.w.release(c.ctx); err != nil || len(gen.live) == 0 || c.rnd.IntN(4) > 0 {
			return err
		}
		if err := c.e.Fsync(c.ctx, gen.live[c.rnd.IntN(len(gen.live))], false); err != nil && c.f.Failed() != nil {
			return err
		}
		return nil
	})
}

// chunkWorkload makes data chunks and has them removed again.
func chunkWorkload(c *crashRun) error {
	for i := range 3 {
		name := fmt.Sprint("/f", i%2)
		if err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600}); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if err := c.e.Allocate(c.ctx, name, 0, 120<<20, false); err != nil {
			return err
		}
		if _, err := c.e.WriteAt(c.ctx, name, oracle.Text(uint64(i), 100000), int64(i)<<20); err != nil {
			return err
		}
		if err := c.sync(); err != nil {
			return err
		}
		if err := c.e.Remove(c.ctx, name); err != nil {
			return err
		}
		if err := c.sync(); err != nil {
			return err
		}
	}
	return nil
}

// fullWorkload fills a filesystem, and takes away, again and again.
func fullWorkload(c *crashRun) error {
	for i := range 5 {
		n := 0
		for ; ; n++ {
			name := fmt.Sprintf("/%d-%d", i, n)
			err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600})
			if err == nil {
				err = c.e.Allocate(c.ctx, name, 0, int64(c.rnd.IntN(16<<20)+1), false)
			}
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			if err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
		for k := range n + 1 {
			if err := c.e.Remove(c.ctx, fmt.Sprintf("/%d-%d", i, k)); err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
			if k%3 == 0 {
				if err := c.sync(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
