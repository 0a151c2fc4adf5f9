package fusefs

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	btrfs "gobtrfs"
)

// faults writes damage to the log, each file and operation once: a program that
// reads a damaged file in pieces would fill the disk otherwise.
type faults struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[fault]struct{}
}

type fault struct {
	id uint64
	op string
}

// maxFaults bounds what is remembered; then everything is reported once more.
const maxFaults = 4096

// report logs that an operation on a node failed with EIO. path tells what the
// node is: it may read, and is called only for what is new.
func (r *faults) report(op string, id uint64, err error, path func(id uint64) (string, place)) {
	key := fault{id, op}
	r.mu.Lock()
	_, known := r.seen[key]
	if !known {
		if r.seen == nil || len(r.seen) >= maxFaults {
			r.seen = map[fault]struct{}{}
		}
		r.seen[key] = struct{}{}
	}
	r.mu.Unlock()
	if !known {
		name, p := path(id)
		r.log.Error("request failed: damage, or a device that fails", "op", op, "path", name, "subvol", uint64(p.subvol), "ino", uint64(p.ino), "err", err)
	}
}

// maxDepth bounds the walk to the top of a subvolume, which damage or malice
// may have made a circle.
const maxDepth = 2048

// pathOf is a path of the file from the top of the filesystem, with "?" for
// what cannot be read.
func pathOf(ctx context.Context, f *btrfs.File) string {
	var parts []string
	for range maxDepth {
		if f.IsSubvolume() || f.IsStub() {
			break
		}
		names, err := f.Names(ctx)
		if err != nil || len(names) == 0 {
			parts = append(parts, "?")
			break
		}
		parts = append(parts, names[0].Name)
		if f, err = f.Subvolume().Inode(ctx, names[0].Parent); err != nil {
			parts = append(parts, "?")
			break
		}
	}
	top := ""
	if info, err := f.Subvolume().Info(ctx); err != nil {
		parts = append(parts, "?")
	} else if info.Path != "" {
		top = "/" + info.Path
	}
	slices.Reverse(parts)
	return top + "/" + strings.Join(parts, "/")
}
