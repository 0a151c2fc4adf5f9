package btrfs_test

import (
	"context"

	"golang.org/x/sys/unix"
)

// falloc is the operation fallocate with a mode.
func falloc(name string, weight int, mode uint32, ours func(ctx context.Context, w *ourSide, o *fileOp) error) opKind {
	return opKind{
		name, weight, func(m *opMaker, o *fileOp) { o.off, o.n = m.size(), m.size()+1 },
		func(k *kernelSide, o *fileOp) error {
			f, err := k.open(o.path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Fallocate(int(f.Fd()), mode, o.off, o.n)
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			if _, err := w.open(ctx, o.path); err != nil {
				return err
			}
			return ours(ctx, w, o)
		},
	}
}

func contentOps() []opKind {
	return []opKind{
		{"write", 4, func(m *opMaker, o *fileOp) {
			o.off, o.data = m.size(), m.bytes(max(1, m.size()))
			if m.rnd.IntN(2) == 0 {
				o.off = 0
			}
		}, func(k *kernelSide, o *fileOp) error {
			f, err := k.open(o.path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(o.data, o.off)
			return err
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			_, err := w.open(ctx, o.path)
			if err == nil {
				_, err = w.WriteAt(ctx, o.path, o.data, o.off)
			}
			return err
		}},
		{"truncate", 2, func(m *opMaker, o *fileOp) { o.n = m.size() }, func(k *kernelSide, o *fileOp) error {
			return unix.Truncate(k.dir+o.path, o.n)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Truncate(ctx, o.path, o.n)
		}},
		falloc("allocate", 1, 0, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Allocate(ctx, o.path, o.off, o.n, false)
		}),
		falloc("allocatekeep", 1, unix.FALLOC_FL_KEEP_SIZE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Allocate(ctx, o.path, o.off, o.n, true)
		}),
		falloc("punch", 2, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.PunchHole(ctx, o.path, o.off, o.n)
		}),
	}
}
