package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gobtrfs/check"
)

// command runs one command line and returns what it printed and its exit code.
func command(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, newApp(strings.NewReader(""), &stdout, &stderr))
	if stderr.Len() > 0 {
		t.Logf("%v: %s", args, stderr.String())
	}
	return stdout.String(), code
}

// freshImage is a filesystem with DUP metadata and a file.
func freshImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte("btrfs"), 50000), 0o644); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(dir, "img")
	if out, code := command(t, "mkfs", "--rootdir", src, "--size", "256M", img); code != 0 {
		t.Fatalf("mkfs: %d %s", code, out)
	}
	return img
}

// spoil inverts the first place where the image has text.
func spoil(t *testing.T, img, text string) {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte(text))
	if i < 0 {
		t.Fatalf("%q is not in the image", text)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{^b[i]}, int64(i)); err != nil {
		t.Fatal(err)
	}
}

func TestCheckVerb(t *testing.T) {
	t.Parallel()
	img := freshImage(t)
	out, code := command(t, "check", "--verify-data", img)
	if code != exitDone || !strings.HasPrefix(out, "clean\n") {
		t.Errorf("clean: %d %s", code, out)
	}
	spoil(t, img, "btrfsbtrfs")
	if out, code = command(t, "check", img); code != exitDone {
		t.Errorf("without --verify-data data is not read: %d %s", code, out)
	}
	out, code = command(t, "check", "--verify-data", img)
	if code != exitDamage || !strings.Contains(out, "data-bad") || !strings.Contains(out, `"/file"`) {
		t.Errorf("damaged: %d %s", code, out)
	}
	out, code = command(t, "check", "--json", "--verify-data", img)
	if code != exitDamage {
		t.Errorf("json: %d", code)
	}
	var last map[string]any
	lines := 0
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); lines++ {
		last = nil
		if err := json.Unmarshal(s.Bytes(), &last); err != nil {
			t.Errorf("%v: %s", err, s.Text())
		}
	}
	if lines < 2 || last["summary"] != true || last["clean"] != false {
		t.Errorf("%d lines, the last is %v", lines, last)
	}
}

func TestCheckVerbWithoutAFilesystem(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, code := command(t, "check", empty); code != exitDamage || !strings.Contains(out, "could not be opened") {
		t.Errorf("%d %s", code, out)
	}
	if _, code := command(t, "check", empty+".not-there"); code != exitFailed {
		t.Errorf("missing file: %d", code)
	}
}

func TestScrubVerb(t *testing.T) {
	t.Parallel()
	img := freshImage(t)
	state := filepath.Join(t.TempDir(), "state")
	if out, code := command(t, "scrub", img); code != exitDone || !strings.Contains(out, "no errors found") {
		t.Errorf("clean: %d %s", code, out)
	}
	// The name of the file stands in a leaf, twice in DUP metadata.
	spoil(t, img, "file")
	if out, code := command(t, "scrub", img); code != exitDamage {
		t.Errorf("damaged: %d %s", code, out)
	}
	if out, code := command(t, "scrub", "--repair", "--state", state, img); code != exitDone || !strings.Contains(out, "corrected 1") {
		t.Errorf("repair: %d %s", code, out)
	}
	if b, err := os.ReadFile(state); err != nil || !strings.Contains(string(b), `"finished": true`) {
		t.Errorf("state: %v %s", err, b)
	}
	if out, code := command(t, "scrub", "-R", img); code != exitDone || !strings.Contains(out, "data_bytes_scrubbed") {
		t.Errorf("repaired: %d %s", code, out)
	}
	if _, code := command(t, "check", img); code != exitDone {
		t.Errorf("check after repair: %d", code)
	}
}

// TestCheckProgress says how far it is and how long it will still take.
func TestCheckProgress(t *testing.T) {
	t.Parallel()
	var c phaseClock
	start := time.Unix(1000, 0)
	for _, x := range []struct {
		p     *check.Progress
		after time.Duration
		want  string
	}{
		{nil, 0, "starting"},
		{&check.Progress{Phase: "metadata", Done: 1 << 20}, 0, "metadata: 1.0 MiB"},
		{&check.Progress{Phase: "metadata", Done: 1 << 20, Total: 4 << 20}, 0, "metadata: 1.0 of about 4.0 MiB (25 %)"},
		{&check.Progress{Phase: "metadata", Done: 2 << 20, Total: 4 << 20}, 10 * time.Second, "metadata: 2.0 of about 4.0 MiB (50 %), about 10s left"},
		{&check.Progress{Phase: "data", Done: 1 << 20, Total: 4 << 20}, 11 * time.Second, "data: 1.0 of about 4.0 MiB (25 %)"},
		{&check.Progress{Phase: "data", Done: 5 << 20, Total: 4 << 20}, 20 * time.Second, "data: 5.0 of about 4.0 MiB (100 %)"},
	} {
		if got := checkProgress(x.p, &c, start.Add(x.after)); got != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
}
