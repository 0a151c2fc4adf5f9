package btrfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/oracle"
)

// TestConcurrentContents lets writers share one file, block by block, and each
// have one of their own, while others read, commit and take snapshots, and far
// more is written than may wait in memory. A reader sees each block as one
// write has left it, never an older one than before; a writer sees his own
// file as he left it. In the end everything is as it was written last.
func TestConcurrentContents(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 1<<30)
	f, e := openWith(t, image, btrfs.Options{DirtyBytes: 256 << 10, Compress: "lzo"})
	ctx := t.Context()
	must(t, e.Create(ctx, "/shared", btrfs.Attr{Perm: 0o644}))
	must(t, e.Truncate(ctx, "/shared", sharedBlocks*sharedBlock))
	s := sharing{e: e}
	steps := 300
	if invariants.Enabled {
		steps = 60
	}
	var wg, others sync.WaitGroup
	stop := make(chan struct{})
	until := func(do func(rnd *rand.Rand) error) {
		others.Go(func() {
			for rnd := rand.New(rand.NewPCG(3, 4)); ; {
				select {
				case <-stop:
					return
				default:
				}
				if err := do(rnd); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	until(func(*rand.Rand) error { return f.Sync(ctx) })
	until(func(rnd *rand.Rand) error { return s.read(ctx, rnd.IntN(sharedBlocks)) })
	until(func(rnd *rand.Rand) error {
		_, err := e.Snapshot(ctx, "/", "/snapshot", rnd.IntN(2) == 0)
		return errors.Join(err, e.DeleteSubvolume(ctx, "/snapshot"))
	})
	for w := range sharers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(5, uint64(w)))
			own := ownFile{e: e, path: fmt.Sprint("/own", w)}
			err := e.Create(ctx, own.path, btrfs.Attr{Perm: 0o644})
			for i := 1; i <= steps && err == nil; i++ {
				block := rnd.IntN(sharedBlocks/sharers)*sharers + w
				err = errors.Join(s.write(ctx, block, uint64(i)), own.step(ctx, rnd))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	for b := range sharedBlocks {
		must(t, s.read(ctx, b))
	}
	must(t, f.Close())
	judge(t, image)
}

const (
	sharers      = 6
	sharedBlocks = 20 * sharers
	sharedBlock  = 5000 // does not fit sectors, so that writers meet in them
)

// sharing is a file in which each block has one writer.
type sharing struct {
	e       *btrfs.Editor
	written [sharedBlocks]atomic.Uint64 // the last write that has returned
}

func (s *sharing) write(ctx context.Context, block int, version uint64) error {
	p := bytes.Repeat(binary.LittleEndian.AppendUint64(nil, version), sharedBlock/8)
	if _, err := s.e.WriteAt(ctx, "/shared", p, int64(block)*sharedBlock); err != nil {
		return err
	}
	s.written[block].Store(version)
	return nil
}

func (s *sharing) read(ctx context.Context, block int) error {
	least := s.written[block].Load()
	p := make([]byte, sharedBlock)
	if _, err := s.e.ReadAt(ctx, "/shared", p, int64(block)*sharedBlock); err != nil {
		return err
	}
	version := binary.LittleEndian.Uint64(p)
	if version < least || !bytes.Equal(p, bytes.Repeat(p[:8], sharedBlock/8)) {
		return fmt.Errorf("block %d shows write %d or a mixture, %d had returned", block, version, least)
	}
	return nil
}

// ownFile is a file that one goroutine changes and knows.
type ownFile struct {
	e    *btrfs.Editor
	path string
	want []byte
}

func (o *ownFile) step(ctx context.Context, rnd *rand.Rand) error {
	switch n := 1 + rnd.IntN(20000); rnd.IntN(8) {
	case 0:
		size := rnd.IntN(len(o.want) + 1)
		if err := o.e.Truncate(ctx, o.path, int64(size)); err != nil {
			return err
		}
		o.want = o.want[:size]
	case 1:
		off := rnd.IntN(len(o.want) + 1)
		if err := o.e.PunchHole(ctx, o.path, int64(off), int64(n)); err != nil {
			return err
		}
		clear(o.want[off:min(len(o.want), off+n)])
	default:
		p := bytes.Repeat([]byte{byte(rnd.IntN(256))}, n)
		if _, err := o.e.WriteAt(ctx, o.path, p, int64(len(o.want))); err != nil {
			return err
		}
		o.want = append(o.want, p...)
	}
	got := make([]byte, len(o.want)+1)
	n, err := o.e.ReadAt(ctx, o.path, got, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], o.want) {
		return fmt.Errorf("%s has %d bytes that are not the %d written: %w", o.path, n, len(o.want), err)
	}
	return nil
}
