package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gobtrfs/internal/oracle"
)

const mib = 1 << 20

// result is what one command line did.
type result struct {
	code        int
	out, errOut string
}

func gobtrfs(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, newApp(strings.NewReader(""), &stdout, &stderr))
	return result{code, stdout.String(), stderr.String()}
}

// want fails the test unless the exit code is right and each stream contains
// what it should.
func (r result) want(t *testing.T, code int, out, errOut string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.out, out) || !strings.Contains(r.errOut, errOut) {
		t.Errorf("exit %d, want %d\nstdout (want %q):\n%.2000s\nstderr (want %q):\n%.2000s", r.code, code, out, r.out, errOut, r.errOut)
	}
}

// written makes a filesystem on n devices with one file of noise.
func written(t *testing.T, n int, profile string) (images []string, content []byte) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	images = oracle.MkfsN(t, n, 256*mib, "-d", profile, "-m", profile)
	m := oracle.Mount(t, "noatime", images...)
	content = oracle.Noise(9, 100_000)
	if err := os.WriteFile(filepath.Join(m.Dir, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	return images, content
}

func TestMembersAreFound(t *testing.T) {
	t.Parallel()
	images, content := written(t, 2, "raid1")
	other := oracle.Mkfs(t, 128*mib)
	dir := filepath.Dir(images[0])
	if err := os.Rename(other, filepath.Join(dir, "another-filesystem")); err != nil {
		t.Fatal(err)
	}
	gobtrfs(t, "ls", images[0]).want(t, exitFailed, "", "missing")
	gobtrfs(t, "ls", "--degraded", images[0]).want(t, exitDone, "file\n", "missing")
	for _, flags := range [][]string{{"--device", images[1]}, {"--scan", dir}} {
		r := gobtrfs(t, append(append([]string{"cat"}, flags...), images[0], "/file")...)
		r.want(t, exitDone, "", "")
		if r.out != string(content) || r.errOut != "" {
			t.Errorf("%q: %d bytes, stderr %q", flags, len(r.out), r.errOut)
		}
	}
	gobtrfs(t, "ls", "--device", filepath.Join(dir, "another-filesystem"), images[0]).want(t, exitFailed, "", "another-filesystem")
	gobtrfs(t, "usage", "--scan", dir, images[0]).want(t, exitDone, "RAID1", "")
}

func TestPartitionAndOffset(t *testing.T) {
	t.Parallel()
	images, content := written(t, 1, "single")
	raw, err := os.ReadFile(images[0])
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(oracle.Dir(t), "disk")
	mbr := make([]byte, mib)
	entry := mbr[446:]
	entry[4] = 0x83
	binary.LittleEndian.PutUint32(entry[8:], mib/512)
	binary.LittleEndian.PutUint32(entry[12:], uint32(len(raw)/512))
	mbr[510], mbr[511] = 0x55, 0xaa
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{mbr, raw} {
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	gobtrfs(t, "ls", disk).want(t, exitFailed, "", "no btrfs superblock")
	for _, flags := range [][]string{{"--partition", "1"}, {"--offset", "1048576"}} {
		if r := gobtrfs(t, append(append([]string{"cat"}, flags...), disk, "/file")...); r.out != string(content) {
			t.Errorf("%q: exit %d, %d bytes: %s", flags, r.code, len(r.out), r.errOut)
		}
	}
	gobtrfs(t, "ls", "--partition", "2", disk).want(t, exitFailed, "", "no partition 2")
}

// flip changes a byte of the first copy of content in the image.
func flip(t *testing.T, image string, content []byte) {
	t.Helper()
	raw, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, content[8192:8192+64])
	if at < 0 {
		t.Fatal("contents not found in the image")
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{^raw[at]}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsNeverGivenOut(t *testing.T) {
	t.Parallel()
	images, content := written(t, 1, "single")
	flip(t, images[0], content)
	r := gobtrfs(t, "cat", images[0], "/file")
	r.want(t, exitDamage, "", "checksum mismatch")
	if !strings.HasPrefix(string(content), r.out) {
		t.Error("cat wrote bytes that are not the file's")
	}
	gobtrfs(t, "manifest", images[0]).want(t, exitDamage, `"read_error":"EIO"`, "1 files")
	dest := filepath.Join(oracle.Dir(t), "out")
	gobtrfs(t, "extract", "-q", images[0], dest).want(t, exitDamage, "", "checksum mismatch")
	gobtrfs(t, "extract", "-q", "--keep-going", images[0], dest+"2").want(t, exitDamage, "", `damaged: "file"`)
	gobtrfs(t, "extract", "-q", "--keep-going", "--json", images[0], dest+"3").want(t, exitDamage, `"path": "file"`, "1 damaged")
	saved, err := os.ReadFile(filepath.Join(dest+"2", "file"))
	if err != nil || !bytes.Equal(saved[:8192], content[:8192]) || !bytes.Equal(saved[12288:], content[12288:]) {
		t.Errorf("what could be read was not saved: %d bytes, %v", len(saved), err)
	}
}

func TestAnotherCopyIsUsedAndSaid(t *testing.T) {
	t.Parallel()
	images, content := written(t, 2, "raid1")
	flip(t, images[0], content)
	flip(t, images[1], content[4096:]) // another sector of the other copy
	r := gobtrfs(t, "cat", "--device", images[1], images[0], "/file")
	if r.code != exitDone || r.out != string(content) {
		t.Errorf("exit %d, right bytes: %v", r.code, r.out == string(content))
	}
	if !strings.Contains(r.errOut, "checksum mismatch") {
		t.Errorf("nothing was said of the bad copies: %q", r.errOut)
	}
}

func TestTrimVerb(t *testing.T) {
	dir := oracle.Dir(t)
	image, file := filepath.Join(dir, "fs"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, oracle.Noise(1, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	gobtrfs(t, "mkfs", "--quiet", "--size", "256M", image).want(t, exitDone, "", "")
	taken := func() int64 {
		fi, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t).Blocks * 512
	}
	empty := taken()
	gobtrfs(t, "put", image, file, "/file").want(t, exitDone, "", "")
	gobtrfs(t, "rm", image, "/file").want(t, exitDone, "", "")
	if n := taken(); n < empty+8<<20 {
		t.Fatalf("%d bytes, %d when it was empty", n, empty)
	}
	gobtrfs(t, "trim", "--minimum", "1T", image).want(t, exitDone, "0.00B trimmed\n", "")
	gobtrfs(t, "trim", image).want(t, exitDone, "MiB trimmed\n", "")
	if n := taken(); n > empty+1<<20 {
		t.Errorf("%d bytes after trim, %d when it was empty", n, empty)
	}
	gobtrfs(t, "trim", "--minimum", "much", image).want(t, exitUsage, "", "is no size")
}
