//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

// TestReadingChangesTimesOfAccess reads a file, a directory and a symbolic link
// twice, from the server each time, in every mode.
func TestReadingChangesTimesOfAccess(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	const once, twice, never = 1, 2, 0
	for _, tc := range []struct {
		name         string
		o            Options
		file, dir, l int // changes
	}{
		{"relatime", Options{}, once, once, once},
		{"strictatime", Options{Atime: AtimeAlways}, twice, once, once}, // the kernel remembers directories and links
		{"noatime", Options{Atime: AtimeNever}, never, never, never},
		{"nodiratime", Options{NoDirAtime: true}, once, never, once},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			image := oracle.Mkfs(t, 256*mib)
			k := oracle.Mount(t, "", image)
			if err := os.WriteFile(k.Dir+"/file", oracle.Noise(1, 10_000), 0o644); err != nil {
				t.Fatal(err)
			}
			oracle.Run(t, "mkdir", k.Dir+"/dir")
			oracle.Run(t, "ln", "-s", "target", k.Dir+"/link")
			k.Unmount()
			s := serveWritable(t, tc.o, image)
			atime := func(dir, name string) time.Time {
				var st unix.Stat_t
				if err := unix.Lstat(dir+"/"+name, &st); err != nil {
					t.Fatal(err)
				}
				return time.Unix(st.Atim.Unix())
			}
			for _, c := range []struct {
				name string
				read func(path string) error
				want int
			}{
				{"file", readUncached, tc.file},
				{"dir", func(p string) error { _, err := os.ReadDir(p); return err }, tc.dir},
				{"link", func(p string) error { _, err := os.Readlink(p); return err }, tc.l},
			} {
				changes := 0
				for last, n := atime(s.dir, c.name), 0; n < 2; n++ {
					if err := c.read(s.dir + "/" + c.name); err != nil {
						t.Fatal(err)
					}
					if now := atime(s.dir, c.name); now.After(last) {
						last = now
						changes++
					}
				}
				if changes != c.want {
					t.Errorf("%s: %d changes, want %d", c.name, changes, c.want)
				}
			}
			shown := atime(s.dir, "file")
			if err := s.Unmount(); err != nil {
				t.Fatal(err)
			}
			oracle.Check(t, image)
			k = oracle.Mount(t, "ro", image)
			if got := atime(k.Dir, "file"); !got.Equal(shown) {
				t.Errorf("the kernel shows %v, we showed %v", got, shown)
			}
		})
	}
}

// readUncached reads a file and makes the kernel forget its pages.
func readUncached(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 100)); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
