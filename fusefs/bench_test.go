//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

// The benchmarks run outside programs on a mount of ours and on the kernel's
// mount of the same image. Cold means: mounted just before. The image is in
// memory, so that the work and not a disk is compared.

const (
	benchFiles = 50_000
	benchDirs  = 1000
	benchBig   = 512 * mib
)

// benchImage holds a tree of 50,000 small files, most below 2 KiB, and one big
// file.
func benchImage(b *testing.B) string {
	b.Helper()
	needFUSE(b)
	img := oracle.Mkfs(b, 2048*mib)
	m := oracle.Mount(b, "noatime", img)
	defer m.Unmount()
	r := rand.New(rand.NewPCG(1, 2))
	noise := oracle.Noise(3, 64<<10)
	for i := range benchFiles {
		dir := fmt.Sprintf("%s/tree/%02d/%02d", m.Dir, i%benchDirs/40, i%benchDirs%40)
		if i < benchDirs {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		size := min(int(600*r.ExpFloat64()*r.ExpFloat64()*2), len(noise))
		if err := os.WriteFile(fmt.Sprintf("%s/file-%05d", dir, i), noise[:size], 0o644); err != nil {
			b.Fatal(err)
		}
	}
	f, err := os.Create(m.Dir + "/big")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for i := range benchBig / mib {
		if _, err := f.Write(oracle.Noise(uint64(i), mib)); err != nil {
			b.Fatal(err)
		}
	}
	return img
}

// mounter mounts the image and returns where, and how to undo it.
type mounter func(b *testing.B, img string) (dir string, undo func())

func byKernel(b *testing.B, img string) (string, func()) {
	m := oracle.Mount(b, "ro", img)
	return m.Dir, m.Unmount
}

func byFUSE(b *testing.B, img string) (string, func()) {
	s := serve(b, "/", Options{}, img)
	return s.dir, func() {
		if err := s.Unmount(); err != nil {
			b.Fatal(err)
		}
	}
}

// byMemory mounts a server that does nothing but copy: the ceiling of any
// FUSE server with this library.
func byMemory(b *testing.B, _ string) (string, func()) {
	dir := b.TempDir()
	s, err := fuse.NewServer(&memoryFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), data: make([]byte, benchBig)}, dir,
		Options{Direct: true, Log: slog.New(slog.DiscardHandler)}.fuse(false))
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		b.Fatal(err)
	}
	if err := readAhead(&st); err != nil {
		b.Log(err)
	}
	return dir, func() {
		if err := s.Unmount(); err != nil {
			b.Fatal(err)
		}
	}
}

// memoryFS is a directory with one file, called big.
type memoryFS struct {
	fuse.RawFileSystem
	data []byte
}

func (m *memoryFS) attr(id uint64) fuse.Attr {
	if id == 1 {
		return fuse.Attr{Ino: 1, Mode: unix.S_IFDIR | 0o755, Nlink: 1}
	}
	return fuse.Attr{Ino: 2, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: uint64(len(m.data)), Blksize: 4096}
}

func (m *memoryFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	out.NodeId = 2
	out.Attr = m.attr(2)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	return fuse.OK
}

func (m *memoryFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr = m.attr(in.NodeId)
	out.SetTimeout(forever)
	return fuse.OK
}

func (m *memoryFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultData(buf[:copy(buf, m.data[in.Offset:])]), fuse.OK
}

// BenchmarkTree walks and reads the tree of small files.
func BenchmarkTree(b *testing.B) {
	img := benchImage(b)
	for _, work := range []struct{ name, script string }{
		{"find", `find "$0/tree" >/dev/null`},
		{"find-stat", `find "$0/tree" -size +1000k >/dev/null`},
		{"tar", `tar -C "$0" -c tree | cat >/dev/null`},
	} {
		for _, by := range []struct {
			name  string
			mount mounter
		}{{"kernel", byKernel}, {"fuse", byFUSE}} {
			b.Run(work.name+"/cold/"+by.name, func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					dir, undo := by.mount(b, img)
					b.StartTimer()
					oracle.Run(b, "sh", "-c", work.script, dir)
					b.StopTimer()
					undo()
					b.StartTimer()
				}
			})
			b.Run(work.name+"/warm/"+by.name, func(b *testing.B) {
				dir, undo := by.mount(b, img)
				defer undo()
				oracle.Run(b, "sh", "-c", work.script, dir)
				for b.Loop() {
					oracle.Run(b, "sh", "-c", work.script, dir)
				}
			})
		}
	}
}

// BenchmarkBigFile reads the big file from end to end.
func BenchmarkBigFile(b *testing.B) {
	img := benchImage(b)
	for _, flags := range []string{"bs=1M", "bs=128k", "bs=1M iflag=direct"} {
		for _, by := range []struct {
			name  string
			mount mounter
		}{{"kernel", byKernel}, {"ceiling", byMemory}, {"fuse", byFUSE}} {
			b.Run(flags+"/"+by.name, func(b *testing.B) {
				b.SetBytes(benchBig)
				for b.Loop() {
					b.StopTimer()
					dir, undo := by.mount(b, img)
					b.StartTimer()
					oracle.Run(b, "sh", "-c", `exec dd if="$0" of=/dev/null status=none `+flags, filepath.Join(dir, "big"))
					b.StopTimer()
					undo()
					b.StartTimer()
				}
			})
		}
	}
}
