package btrfs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func attrOps() []opKind {
	xattr := func(m *opMaker, o *fileOp) {
		o.path2 = fmt.Sprintf("user.a%d", m.rnd.IntN(4))
		o.data = bytes.Repeat([]byte{byte(m.rnd.IntN(256))}, m.rnd.IntN(300))
	}
	return []opKind{
		{"chmod", 1, nil, func(k *kernelSide, o *fileOp) error {
			return unix.Chmod(k.dir+o.path, o.perm)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Chmod(ctx, o.path, modeOf(o.perm))
		}},
		{"chown", 1, nil, func(k *kernelSide, o *fileOp) error {
			return unix.Chown(k.dir+o.path, int(o.perm&0xff), int(o.perm>>4))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			uid, gid := o.perm&0xff, o.perm>>4
			return w.Chown(ctx, o.path, &uid, &gid)
		}},
		{"chtimes", 1, func(m *opMaker, o *fileOp) { o.n = m.rnd.Int64N(1 << 40) }, func(k *kernelSide, o *fileOp) error {
			return os.Chtimes(k.dir+o.path, time.Unix(o.n, 5), time.Unix(o.n, 7))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			a, m := time.Unix(o.n, 5), time.Unix(o.n, 7)
			return w.Chtimes(ctx, o.path, &a, &m)
		}},
		{"setxattr", 2, xattr, func(k *kernelSide, o *fileOp) error {
			return unix.Lsetxattr(k.dir+o.path, o.path2, o.data, 0)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.SetXattr(ctx, o.path, o.path2, o.data)
		}},
		{"removexattr", 1, xattr, func(k *kernelSide, o *fileOp) error {
			return unix.Lremovexattr(k.dir+o.path, o.path2)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.RemoveXattr(ctx, o.path, o.path2)
		}},
	}
}
