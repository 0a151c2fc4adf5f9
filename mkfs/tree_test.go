//go:build linux

package mkfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

// sampleTree makes a directory with about everything that a file can be.
func sampleTree(t testing.TB) string {
	t.Helper()
	dir := oracle.Dir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	put := func(p string, b []byte, mode os.FileMode) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(at(p)), 0o755))
		must(os.WriteFile(at(p), b, 0o600))
		must(os.Chmod(at(p), mode))
	}
	text := []byte(strings.Repeat("the quick brown fox jumps over the lazy dog\n", 8000))
	noise := make([]byte, 400_000)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	for _, n := range []int{0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 65536, 131071, 131072, 131073, 300_000} {
		put("sizes/text-"+itoa(n), text[:n], 0o644)
		put("sizes/noise-"+itoa(n), noise[:n], 0o640)
		put("sizes/zero-"+itoa(n), make([]byte, n), 0o400)
	}
	put("big/mixed", []byte(strings.Repeat(string(text[:100_000])+string(noise[:150_000])+string(make([]byte, 70_000)), 12)), 0o755)
	f, err := os.Create(at("big/sparse"))
	must(err)
	_, err = f.WriteAt(noise[:10_000], 5<<20)
	must(err)
	_, err = f.WriteAt(text[:10_000], 9<<20+123)
	must(err)
	must(f.Truncate(20<<20 + 7))
	must(f.Close())
	put("setuid", text[:10], 0o755|os.ModeSetuid|os.ModeSetgid|os.ModeSticky)
	must(os.Chown(at("setuid"), 12345, 54321))
	must(os.Chmod(at("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.Symlink("sizes/text-100", at("link")))
	must(os.Symlink(strings.Repeat("x", 3900), at("long-link")))
	put("names/"+strings.Repeat("n", 255), []byte("long name"), 0o644)
	put("names/\xff\xfe\"%\\\n", []byte("odd name"), 0o644)
	for i := range 30 {
		must(os.Link(at("sizes/text-4097"), at("names/hard-link-with-a-rather-long-name-so-that-an-item-overflows-"+itoa(i))))
	}
	must(os.Mkdir(at("empty"), 0o1777))
	for i := range 700 {
		put("many/"+itoa(i), []byte(itoa(i)), 0o600)
	}
	deep := "deep"
	for range 60 {
		deep += "/" + strings.Repeat("d", 40)
	}
	must(os.MkdirAll(at(deep), 0o700))
	put(deep+"/file", text[:5000], 0o600)
	if os.Geteuid() == 0 {
		must(unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 300))))
		must(unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 65537))))
		must(unix.Mknod(at("sock"), unix.S_IFSOCK|0o755, 0))
		must(unix.Lsetxattr(at("setuid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		must(unix.Lsetxattr(at("link"), "trusted.on-a-link", []byte("yes"), 0))
	}
	must(unix.Mkfifo(at("fifo"), 0o622))
	for i := range 60 {
		must(unix.Lsetxattr(at("sizes/text-100"), "user.attribute-"+itoa(i), []byte(strings.Repeat("v", i*13)), 0))
	}
	must(unix.Lsetxattr(at("empty"), "user.on-a-directory", []byte{0, 1, 2}, 0))
	must(unix.Lsetxattr(at("sizes/text-0"), "user.on-an-empty-file", nil, 0))
	i := 0
	must(filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		i++
		ts := time.Unix(1_000_000_000+int64(i), int64(i)*7919)
		s := unix.NsecToTimespec(ts.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{s, s}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	must(os.Chtimes(at("big/mixed"), time.Unix(-5, 999), time.Unix(-5, 999)))
	return dir
}

func itoa(n int) string {
	if n >= 10 {
		return itoa(n/10) + string(rune('0'+n%10))
	}
	return string(rune('0' + n))
}
