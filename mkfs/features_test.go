//go:build linux

package mkfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

func TestSubvolumesAndFlags(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := sampleTree(t)
	for _, p := range []string{"sub/inner/deep", "sub/other", "flags/cow", "flags/sub"} {
		if err := os.MkdirAll(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := bytes.Repeat([]byte("some contents "), 1000)
	for _, p := range []string{"sub/a", "sub/inner/b", "sub/inner/deep/c", "sub/other/d", "flags/cow/e", "flags/f", "flags/sub/g"} {
		if err := os.WriteFile(filepath.Join(dir, p), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"sub/link", "sub/inner/link", "sub/inner/link2"} { // across subvolumes
		if err := os.Link(filepath.Join(dir, "sub/other/d"), filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	img := oracle.Sparse(t, 1, 512<<20)
	makeOn(t, Options{
		Source: Dir(dir), Compress: "zstd",
		Subvolumes: []Subvolume{{Path: "sub", Default: true}, {Path: "sub/inner", ReadOnly: true}, {Path: "/flags/sub/"}},
		Flags:      []InodeFlags{{Path: "flags", NoDataCow: true}, {Path: "sub/a", NoDataSum: true}},
	}, img...)
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, img...)

	m := oracle.Mount(t, "ro", img...) // the default subvolume
	for _, p := range []string{"a", "inner/deep/c", "other/d", "link", "inner/link"} {
		if b, err := os.ReadFile(filepath.Join(m.Dir, p)); err != nil || !bytes.Equal(b, text) {
			t.Errorf("%s: %d bytes, %v", p, len(b), err)
		}
	}
	for p, want := range map[string]uint64{"other/d": 2, "link": 2, "inner/link": 2, "inner/link2": 2} {
		fi, err := os.Stat(filepath.Join(m.Dir, p))
		if err != nil || uint64(fi.Sys().(*syscall.Stat_t).Nlink) != want {
			t.Errorf("%s: %v links (%v), want %d", p, fi.Sys().(*syscall.Stat_t).Nlink, err, want)
		}
	}
	m.Unmount()

	m = oracle.Mount(t, "subvolid=5", img...)
	want, got := oracle.HostManifest(t, dir, oracle.HostOptions{}), oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	for i := range want {
		if want[i].Type == 'd' {
			want[i].Nlink = 1
		}
	}
	oracle.RequireSame(t, want, got, attributes&^manifest.Nlink)
	list := oracle.Run(t, "btrfs", "subvolume", "list", m.Dir)
	for _, s := range []string{"path flags/sub\n", "path sub\n", "path sub/inner\n"} {
		if !strings.Contains(list, s) {
			t.Errorf("subvolume list %q has no %q", list, s)
		}
	}
	if s := oracle.Run(t, "btrfs", "property", "get", m.Dir+"/sub/inner", "ro"); !strings.Contains(s, "ro=true") {
		t.Errorf("sub/inner: %s", s)
	}
	attrs := oracle.Run(t, "lsattr", "-d", m.Dir+"/flags", m.Dir+"/flags/cow", m.Dir+"/flags/cow/e", m.Dir+"/flags/f", m.Dir+"/flags/sub/g", m.Dir+"/sub/a")
	for i, line := range strings.Split(strings.TrimSpace(attrs), "\n") {
		flags, _, _ := strings.Cut(line, " ")
		if cow := i < 4; strings.Contains(flags, "C") != cow {
			t.Errorf("%s: want C: %v", line, cow)
		}
	}
	// Linux must be able to delete subvolumes and to find them by UUID.
	oracle.Run(t, "btrfs", "subvolume", "set-default", "5", m.Dir)
	oracle.Run(t, "btrfs", "subvolume", "show", m.Dir+"/sub")
	oracle.Run(t, "btrfs", "subvolume", "snapshot", m.Dir+"/sub", m.Dir+"/snap")
	oracle.Run(t, "btrfs", "property", "set", "-f", m.Dir+"/sub/inner", "ro", "false")
	oracle.Run(t, "btrfs", "subvolume", "delete", "-c", m.Dir+"/sub/inner")
	oracle.Run(t, "btrfs", "subvolume", "delete", "-c", m.Dir+"/sub")
	oracle.Run(t, "btrfs", "subvolume", "sync", m.Dir)
	oracle.Scrub(t, m.Dir)
	m.Unmount()
	oracle.Check(t, img...)
}

func TestBadSubvolumesAndFlags(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/d/e", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Subvolumes: []Subvolume{{Path: "none"}}},
		{Subvolumes: []Subvolume{{Path: "f"}}},
		{Subvolumes: []Subvolume{{Path: "."}}},
		{Subvolumes: []Subvolume{{Path: "d"}, {Path: "d/"}}},
		{Subvolumes: []Subvolume{{Path: "d", Default: true}, {Path: "d/e", Default: true}}},
		{Flags: []InodeFlags{{Path: "none", NoDataCow: true}}},
		{NodeSize: 2048}, {NodeSize: 131072}, {NodeSize: 12288}, {Csum: 9}, {Data: "raid7"}, {Metadata: "raid1"}, {Compress: "brotli"},
		{Features: []string{"unknown"}}, {Features: []string{"zoned"}}, {Features: []string{"mixed-bg"}, NodeSize: 16384},
		{Features: []string{"mixed-bg"}, Data: "single", Metadata: "dup"}, {Features: []string{"^no-holes,block-group-tree"}},
		{Label: strings.Repeat("l", 256)}, {DeviceUUIDs: make([]disk.UUID, 2)}, {ByteCount: 1 << 40}, {Map: Mapping{Exclude: []string{"["}}},
	} {
		o.Source = Dir(dir)
		if _, err := Make(t.Context(), []blockdev.Device{blockdev.NewMemory(256 << 20)}, o); err == nil {
			t.Errorf("accepted: %+v", o)
		}
	}
	var bad *OptionError
	if _, err := prepare(t.Context(), 1, Options{Shrink: true, Free: 1 << 60}, nil); !errors.As(err, &bad) {
		t.Errorf("room for 1 EiB: %v", err)
	}
}

// TestManyLinks gives a file many names in one directory, so that nearly all of
// them need extended references, and then more names than link(2) would.
func TestManyLinks(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, links := range []int{2_000, 66_000} {
		t.Run(fmt.Sprint(links), func(t *testing.T) {
			img := oracle.Sparse(t, 1, 512<<20)
			makeOn(t, Options{Source: linkSource(links)}, img...)
			// The low-memory mode of btrfs check reports every extended
			// reference, Linux's too; the other one takes time by the square.
			if links < 10_000 {
				oracle.CheckWith(t, oracle.CheckOptions{Data: true, NoLowmem: true}, img...)
			}
			m := oracle.Mount(t, "", img...)
			fi, err := os.Stat(m.Dir + "/names/1999")
			if err != nil || uint64(fi.Sys().(*syscall.Stat_t).Nlink) != uint64(links)+1 {
				t.Errorf("%v links (%v), want %d", fi.Sys().(*syscall.Stat_t).Nlink, err, links+1)
			}
			oracle.Run(t, "rm", "-r", m.Dir+"/names")
			m.Unmount()
			oracle.Check(t, img...)
		})
	}
}

// linkSource is a file with further names in one directory.
func linkSource(links int) Source {
	return Entries(func(yield func(Entry, error) bool) {
		if !yield(Entry{Path: "f", Mode: modeRegular | 0o600, Size: 5000, Mtime: disk.Time{Sec: 5}, Open: func() (Content, error) {
			return nopCloser{bytes.NewReader(bytes.Repeat([]byte("x"), 5000))}, nil
		}}, nil) {
			return
		}
		for i := range links {
			if !yield(Entry{Path: fmt.Sprint("names/", i), Link: "f", Mode: modeRegular}, nil) {
				return
			}
		}
	})
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

// TestNamesWithTheSameHash puts names into one directory that share a hash.
func TestNamesWithTheSameHash(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	names := collisions(t, 12)
	dir := oracle.Dir(t)
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img := oracle.Sparse(t, 1, 256<<20)
	makeOn(t, Options{Source: Dir(dir)}, img...)
	judge(t, dir, img...)
}

// collisions finds pairs of names with one hash, of a million tried.
func collisions(t *testing.T, n int) []string {
	t.Helper()
	byHash := map[uint32][]string{}
	for i := range 1 << 20 {
		name := fmt.Sprintf("%08x-%05d", uint32(i)*2654435761, i%99991)
		h := csum.NameHash([]byte(name))
		byHash[h] = append(byHash[h], name)
	}
	var out []string
	for _, v := range byHash {
		if len(v) > 1 {
			out = append(out, v...)
		}
		if len(out) >= n {
			return out
		}
	}
	t.Fatalf("only %d names found", len(out))
	return nil
}

func TestMapping(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	dir := oracle.Dir(t)
	for p, mode := range map[string]os.FileMode{"bin/tool": 0o777, "etc/conf": 0o666, "etc/skip.tmp": 0o600, "cache/x": 0o600, "var/x": 0o600, "home/u": 0o644} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(strings.Repeat(p, 500)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, p), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "home/u"), 100_005, 100_010); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("conf", filepath.Join(dir, "etc/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "etc/conf"), "user.old", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIDMap(strings.NewReader("uid 100000 1000 65536 # users\n\ngid 100000 2000 65536\n"))
	if err != nil {
		t.Fatal(err)
	}
	xs, err := ParseXattrs(strings.NewReader("# file: etc/conf\nuser.hex=0x0001ff\nuser.text=\"a\\\"\\134b\"\nuser.b64=0saGVsbG8=\n\n# file: bin\nuser.none\n" +
		"# file: etc/link\nuser.of-what-it-leads-to=\"1\"\ntrusted.own=\"2\"\n# file: cache/x\nuser.left-out\n"))
	if err != nil {
		t.Fatal(err)
	}
	labels, err := ParseFileContexts(strings.NewReader("/.*  system_u:object_r:default_t:s0\n/etc(/.*)? system_u:object_r:etc_t:s0\n/bin/.* -- system_u:object_r:bin_t:s0\n/bin/tool  <<none>>\n"))
	if err != nil {
		t.Fatal(err)
	}
	img := oracle.Sparse(t, 1, 256<<20)
	makeOn(t, Options{Source: Dir(dir), Map: Mapping{
		IDs: ids, Umask: 0o022, Clamp: time.Unix(1_000_000, 0), Exclude: []string{"*.tmp", "/cache", "./var"}, Xattrs: xs, Labels: labels,
	}}, img...)
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, img...)
	m := oracle.Mount(t, "ro", img...)
	defer m.Unmount()
	byPath := map[string]manifest.Entry{}
	for _, e := range oracle.HostManifest(t, m.Dir, oracle.HostOptions{}) {
		byPath[e.Path] = e
		if e.Mtime != (disk.Time{Sec: 1_000_000}) {
			t.Errorf("%s: mtime %v", e.Path, e.Mtime)
		}
	}
	if len(byPath) != 8 { // top, bin, tool, etc, conf, link, home, u
		t.Errorf("%d entries: %v", len(byPath), byPath)
	}
	if e := byPath["home/u"]; e.UID != 1005 || e.GID != 2010 {
		t.Errorf("home/u belongs to %d:%d", e.UID, e.GID)
	}
	if e := byPath["bin/tool"]; e.Mode != 0o755 || e.Xattrs[labelName] != nil {
		t.Errorf("bin/tool: mode %o, attributes %q", e.Mode, e.Xattrs)
	}
	conf := byPath["etc/conf"]
	for k, want := range map[string]string{
		"user.old": "1", "user.hex": "\x00\x01\xff", "user.text": `a"\b`, "user.b64": "hello", labelName: "system_u:object_r:etc_t:s0\x00",
	} {
		if got, ok := conf.Xattrs[k]; !ok || string(got) != want {
			t.Errorf("etc/conf: %s = %q, %v; want %q", k, got, ok, want)
		}
	}
	if xs := byPath["etc/link"].Xattrs; len(xs) != 2 || string(xs["trusted.own"]) != "2" {
		t.Errorf("etc/link: %q, want a label and trusted.own", xs)
	}
	if e := byPath["home"]; string(e.Xattrs[labelName]) != "system_u:object_r:default_t:s0\x00" {
		t.Errorf("home: %q", e.Xattrs)
	}
}

func TestAttributesForNothing(t *testing.T) {
	m := Mapping{Xattrs: map[string]map[string][]byte{"d/none": {"user.a": nil}, "": {"user.b": nil}}}
	o := Options{Source: Tar(bytes.NewReader(archive(t, reg("d/a"))), "a.tar"), Map: m}
	var bad *OptionError
	if _, err := prepare(t.Context(), 1, o, nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "d/none") {
		t.Errorf("error %v, want one that names the path", err)
	}
}

func TestBadMaps(t *testing.T) {
	for _, s := range []string{"uid 1", "uid 1 2 3 4", "user 1 2", "uid -1 2", "gid 1 4294967296"} {
		if _, err := ParseIDMap(strings.NewReader(s)); err == nil {
			t.Errorf("id map %q accepted", s)
		}
	}
	for _, s := range []string{"user.a=\"x\"", "# file: x\nuser.a=zzz", "# file: x\nuser.a=0xf", "# file: x\nuser.a=0s?"} {
		if _, err := ParseXattrs(strings.NewReader(s)); err == nil {
			t.Errorf("attributes %q accepted", s)
		}
	}
	for _, s := range []string{"/x", "/x -y z", "( z", "a b c d"} {
		if _, err := ParseFileContexts(strings.NewReader(s)); err == nil {
			t.Errorf("file contexts %q accepted", s)
		}
	}
}

// TestExistingContents refuses targets that hold something.
func TestExistingContents(t *testing.T) {
	for _, c := range magics {
		d := blockdev.NewMemory(256 << 20)
		if _, err := d.WriteAt([]byte(c.mark), c.at); err != nil {
			t.Fatal(err)
		}
		if _, err := Make(t.Context(), []blockdev.Device{d}, Options{}); err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%s: %v", c.what, err)
		}
		if _, err := Make(t.Context(), []blockdev.Device{d}, Options{Force: true}); err != nil {
			t.Errorf("%s: with force: %v", c.what, err)
		}
		got := make([]byte, len(c.mark))
		if _, err := d.ReadAt(got, c.at); err != nil || (string(got) == c.mark && c.what != "a btrfs filesystem") {
			t.Errorf("%s: still there (%v)", c.what, err)
		}
	}
}
