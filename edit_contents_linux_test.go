package btrfs_test

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// uncapable takes capabilities from a file that was changed: Linux keeps them
// where there was nothing to do, an Editor does not.
func uncapable(f *os.File, err error) error {
	if err != nil {
		return err
	}
	if err := unix.Fremovexattr(int(f.Fd()), "security.capability"); err != unix.ENODATA {
		return err
	}
	return nil
}

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
			return uncapable(f, unix.Fallocate(int(f.Fd()), mode, o.off, o.n))
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			if _, err := w.open(ctx, o.path); err != nil {
				return err
			}
			return ours(ctx, w, o)
		},
	}
}

// pair chooses two files, which may be one, and ranges in them that mostly start
// at sectors.
func pair(m *opMaker, o *fileOp) {
	o.path, o.path2 = m.path("fff"), m.path("fff")
	if m.rnd.IntN(4) == 0 {
		o.path2 = o.path
	}
	o.off, o.n, o.off2 = int64(m.rnd.IntN(30))*4096, int64(m.rnd.IntN(30))*4096, int64(m.rnd.IntN(30))*4096
	switch m.rnd.IntN(8) {
	case 0:
		o.off += int64(m.rnd.IntN(4096))
	case 1, 2:
		o.n = m.size()
	case 3:
		o.off2 += int64(m.rnd.IntN(4096))
	case 4:
		o.off = 0
	case 5:
		o.off, o.n, o.off2 = 0, 0, 0
	}
}

// pairing is an operation on two ranges. Of an operation with data both files
// are written, else only the second.
func pairing(name string, weight int, fill func(m *opMaker, o *fileOp), kernel func(from, to *os.File, o *fileOp) error,
	ours func(ctx context.Context, w *ourSide, o *fileOp) error) opKind {
	return opKind{
		name, weight, fill,
		func(k *kernelSide, o *fileOp) error {
			how := os.O_RDONLY
			if o.data != nil {
				how = os.O_RDWR
			}
			from, err := k.openAs(o.path, how)
			if err != nil {
				return err
			}
			defer from.Close()
			if fi, err := from.Stat(); err == nil && fi.IsDir() {
				return unix.EISDIR
			}
			to, err := k.open(o.path2)
			if err != nil {
				return err
			}
			defer to.Close()
			return kernel(from, to, o)
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			if _, err := w.openAs(ctx, o.path, o.data != nil); err != nil {
				return err
			}
			if _, err := w.open(ctx, o.path2); err != nil {
				return err
			}
			return ours(ctx, w, o)
		},
	}
}

func kernelClone(from, to *os.File, o *fileOp) error {
	return uncapable(to, unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.Fd()), Src_offset: uint64(o.off), Src_length: uint64(o.n), Dest_offset: uint64(o.off2),
	}))
}

func ourClone(ctx context.Context, w *ourSide, o *fileOp) error {
	return w.CloneRange(ctx, o.path, o.off, o.n, o.path2, o.off2)
}

// kernelDedupe has no errno for ranges that differ; EBADE is what the kernel
// itself uses.
func kernelDedupe(from, to *os.File, o *fileOp) error {
	r := unix.FileDedupeRange{
		Src_offset: uint64(o.off), Src_length: uint64(o.n),
		Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(to.Fd()), Dest_offset: uint64(o.off2)}},
	}
	if err := unix.IoctlFileDedupeRange(int(from.Fd()), &r); err != nil {
		return err
	}
	switch s := r.Info[0].Status; {
	case s < 0:
		return unix.Errno(-s)
	case s == unix.FILE_DEDUPE_RANGE_DIFFERS:
		return unix.EBADE
	}
	return nil
}

func ourDedupe(ctx context.Context, w *ourSide, o *fileOp) error {
	_, same, err := w.Dedupe(ctx, o.path, o.off, o.n, o.path2, o.off2)
	if err == nil && !same {
		err = unix.EBADE
	}
	return err
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
		{"append", 2, func(m *opMaker, o *fileOp) { o.data = m.bytes(max(1, m.size())) }, func(k *kernelSide, o *fileOp) error {
			if fi, err := os.Lstat(k.dir + o.path); err == nil && !fi.Mode().IsRegular() {
				return unix.EINVAL
			}
			f, err := os.OpenFile(k.dir+o.path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.Write(o.data)
			return err
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			info, err := w.Stat(ctx, o.path)
			if err == nil && !info.Mode().IsRegular() {
				err = unix.EINVAL
			}
			if err == nil {
				_, err = w.WriteAt(ctx, o.path, o.data, int64(info.Item.Size))
			}
			return err
		}},
		{"truncate", 2, func(m *opMaker, o *fileOp) { o.n = m.size() }, func(k *kernelSide, o *fileOp) error {
			return unix.Truncate(k.dir+o.path, o.n)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Truncate(ctx, o.path, o.n)
		}},
		pairing("clonerange", 6, pair, kernelClone, ourClone), pairing("dedupe", 2, pair, kernelDedupe, ourDedupe),
		pairing("dedupesame", 2, func(m *opMaker, o *fileOp) {
			pair(m, o)
			o.data = m.bytes(max(1, m.size()))
			o.n = int64(len(o.data))
			if m.rnd.IntN(2) == 0 {
				o.n = o.n / 4096 * 4096
			}
		}, func(from, to *os.File, o *fileOp) error {
			if _, err := from.WriteAt(o.data, o.off); err != nil {
				return err
			}
			if _, err := to.WriteAt(o.data, o.off2); err != nil {
				return err
			}
			return kernelDedupe(from, to, o)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			if _, err := w.WriteAt(ctx, o.path, o.data, o.off); err != nil {
				return err
			}
			if _, err := w.WriteAt(ctx, o.path2, o.data, o.off2); err != nil {
				return err
			}
			return ourDedupe(ctx, w, o)
		}),
		pairing("clonewhole", 2, func(m *opMaker, o *fileOp) { o.path, o.path2 = m.path("fff"), m.path("fff") }, kernelClone, ourClone),
		falloc("allocate", 1, 0, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Allocate(ctx, o.path, o.off, o.n, false)
		}),
		falloc("allocatekeep", 1, unix.FALLOC_FL_KEEP_SIZE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Allocate(ctx, o.path, o.off, o.n, true)
		}),
		falloc("zero", 1, unix.FALLOC_FL_ZERO_RANGE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.ZeroRange(ctx, o.path, o.off, o.n, false)
		}),
		falloc("zerokeep", 1, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.ZeroRange(ctx, o.path, o.off, o.n, true)
		}),
		falloc("punch", 2, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.PunchHole(ctx, o.path, o.off, o.n)
		}),
	}
}
