package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gobtrfs/internal/oracle"
)

// shows is what an image holds, whole as it must be.
func shows(t *testing.T, image string) string {
	t.Helper()
	runVerb(t, "", 0, "check", image)
	return runVerb(t, "", 0, "manifest", "--fields", "path,type,mode,size,nlink,sha256", image)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestInterruptedEdits ends editing verbs by signals at random moments: each has
// happened wholly or not at all.
func TestInterruptedEdits(t *testing.T) {
	t.Parallel()
	const files = 200
	dir := t.TempDir()
	image, src, batch := filepath.Join(dir, "fs.img"), filepath.Join(dir, "src"), filepath.Join(dir, "batch")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range files {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), oracle.Noise(uint64(i), 5000), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "cp --reflink /src/%d /copy%d\nmv /copy%d /moved%d\n", i, i, i, i)
	}
	if err := os.WriteFile(batch, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	runVerb(t, "", 0, "mkfs", "--size", "128M", image)
	runVerb(t, "", 0, "put", image, src, "/src")
	before := shows(t, image)
	work := filepath.Join(dir, "work.img")
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, args := range [][]string{{"put", work, src, "/again"}, {"rm", "-r", work, "/src"}, {"edit", "--batch", batch, work}} {
		copyFile(t, image, work)
		start := time.Now()
		if out, err := process(t, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		took := time.Since(start)
		after := shows(t, work)
		done, undone := 0, 0
		for range 6 {
			copyFile(t, image, work)
			cmd := process(t, args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rnd.Int64N(int64(took))))
			// Whether it was over before, Wait does not say and it does not matter.
			_ = cmd.Process.Signal([]os.Signal{os.Interrupt, syscall.SIGTERM, os.Kill}[rnd.IntN(3)])
			failed := cmd.Wait() != nil
			switch got := shows(t, work); {
			case got == after:
				done++
			case got == before && failed:
				undone++
			default:
				t.Errorf("%q was ended half-way (says that it failed: %v):\n%s", args, failed, got)
			}
		}
		t.Logf("%s: %d done, %d not", args[0], done, undone)
	}
}

// TestInterruptedInput interrupts verbs that wait for standard input: they end at
// once and have changed nothing.
func TestInterruptedInput(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "fs.img")
	runVerb(t, "", 0, "mkfs", "--size", "128M", image)
	before := shows(t, image)
	for _, tc := range []struct {
		args []string
		in   []byte
	}{
		{[]string{"put", image, "-", "/f"}, oracle.Noise(1, 20<<20)},
		{[]string{"edit", "--batch", "-", image}, bytes.Repeat([]byte("mkdir -p /a/b\n"), 10000)},
	} {
		cmd := process(t, tc.args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A pipe holds less, so some of it is read by then.
		if _, err := in.Write(tc.in); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := cmd.Wait(); err == nil || time.Since(start) > 20*time.Second {
			t.Errorf("%q ends with %v after %v", tc.args, err, time.Since(start))
		}
		if got := shows(t, image); got != before {
			t.Errorf("%q, interrupted, leaves\n%s", tc.args, got)
		}
	}
}
