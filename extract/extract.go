// Package extract copies files out of a filesystem: into a directory, or into a
// tar stream.
//
// Everything that the destination can hold is kept: types, owners, modes, times
// in nanoseconds, xattrs with ACLs and capabilities, hard links, holes, devices.
// What it cannot hold is counted and named in the Result.
//
// A filesystem may be hostile. Names that could lead out of the destination are
// refused; a directory that is reached twice is damage and is not entered again,
// so that a circle ends; the destination is changed only through descriptors of
// directories made or opened here, never through a symbolic link.
//
// Memory: one small record for each directory (to know it again) and for each
// hard-linked file not yet complete, one more for each directory that waits to
// be entered, and a buffer for each worker.
package extract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"gobtrfs"
	"gobtrfs/disk"
)

// Options say how to copy. The zero value keeps all that the process may set
// and stops at the first damaged file.
type Options struct {
	// KeepGoing goes on past damage and lists it. What could be read of a
	// damaged file is kept. Default: stop at the first.
	KeepGoing bool
	// NoOwner leaves owners alone. Default: they are set when the process is
	// root.
	NoOwner bool
	// Workers is the number of goroutines. Default: twice the CPUs, at least 4.
	Workers int
	// Progress is counted up meanwhile. Default: nobody counts.
	Progress *Progress
}

// Progress counts what has been copied. It may be read at any time.
type Progress struct {
	Files atomic.Int64 // entries of all types
	Bytes atomic.Int64 // of contents
}

// Result says what happened.
type Result struct {
	Damaged      []Problem // in no particular order; at most maxListed
	DamagedCount int64
	Unkept       []Problem // what the destination cannot hold; at most maxListed
	UnkeptCount  int64
}

// Problem is one thing that went wrong with one file.
type Problem struct {
	Path string // in the filesystem, below what is copied
	Err  error
}

func (p Problem) String() string { return fmt.Sprintf("%q: %v", p.Path, p.Err) }

// maxListed bounds the lists of a Result; beyond it problems are only counted.
const maxListed = 10_000

func (o Options) withDefaults() Options {
	if o.Workers <= 0 {
		o.Workers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	return o
}

// isDamage tells errors of reading the filesystem that are about one file from
// those that end the work, such as a cancelled context.
func isDamage(err error) bool {
	return errors.Is(err, btrfs.ErrCorrupt) || errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, errors.ErrUnsupported)
}

// inode names a file within the filesystem.
type inode struct {
	tree disk.ObjectID
	ino  disk.ObjectID
}

func inodeOf(f *btrfs.File) inode { return inode{f.Subvolume().ID(), f.Ino()} }

// sectorSize is the unit in which damage is passed over.
const sectorSize = 4096

// read fills buf from off as far as the file goes. With salvage, damage inside
// is no end: what cannot be read is zeros, and the error says how much that is.
func read(ctx context.Context, f *btrfs.File, buf []byte, off int64, salvage bool) (int, error) {
	n, err := f.ReadAtContext(ctx, buf, off)
	if err == io.EOF {
		err = nil
	}
	if err == nil || !salvage || !isDamage(err) {
		return n, err
	}
	// Again sector by sector: one bad sector spoils a read of many.
	var first error
	bad, done := 0, n
	for done < len(buf) && ctx.Err() == nil {
		next := min(len(buf), int((off+int64(done))/sectorSize+1)*sectorSize-int(off))
		n, err := f.ReadAtContext(ctx, buf[done:next], off+int64(done))
		if n < next-done && err == io.EOF {
			done += n
			break
		}
		if err != nil && err != io.EOF {
			clear(buf[done:next])
			bad += next - done
			if first == nil {
				first = fmt.Errorf("offset %d: %w", off+int64(done), err)
			}
		}
		done = next
	}
	if first == nil {
		return done, ctx.Err()
	}
	return done, fmt.Errorf("%d bytes cannot be read: %w", bad, first)
}

// problems collects a Result; it is safe for concurrent use.
type problems struct {
	mu sync.Mutex
	r  Result // mu
}

func (p *problems) damaged(path string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r.DamagedCount++
	if len(p.r.Damaged) < maxListed {
		p.r.Damaged = append(p.r.Damaged, Problem{path, err})
	}
}

func (p *problems) unkept(path string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r.UnkeptCount++
	if len(p.r.Unkept) < maxListed {
		p.r.Unkept = append(p.r.Unkept, Problem{path, err})
	}
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
