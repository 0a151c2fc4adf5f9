package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

const asCommand = "GOBTRFS_TEST_AS_COMMAND"

// TestMain lets a test start the command itself as a process.
func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is the command, not yet started.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	return c
}

// interrupt starts the command, sends it a signal as soon as ready says so, and
// wants it to fail soon with exit code 1. It returns what it printed.
func interrupt(t *testing.T, c *exec.Cmd, sig os.Signal, ready func() bool) string {
	t.Helper()
	var errOut bytes.Buffer
	c.Stderr = &errOut
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	deadline := time.After(time.Minute)
	for sent := false; ; {
		select {
		case err := <-done:
			var exit *exec.ExitError
			if !sent || !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
				t.Errorf("signal sent %v; ended with %v, want exit code %d: %s", sent, err, exitFailed, errOut.String())
			}
			return errOut.String()
		case <-deadline:
			_ = c.Process.Kill()
			<-done
			t.Fatalf("still there a minute after it began; signal sent: %v", sent)
		case <-time.After(time.Millisecond):
			if !sent && ready() {
				sent = true
				if err := c.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// slowTree is a directory that takes seconds to compress.
func slowTree(t *testing.T) string {
	t.Helper()
	dir := oracle.Dir(t)
	for i := range 4 {
		if err := os.WriteFile(filepath.Join(dir, "text"+string(rune('0'+i))), oracle.Text(uint64(i), 16<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestMkfsInterruptedLeavesNoImage sends the signals of Ctrl-C and of kill while an
// archive is awaited and while contents are written.
func TestMkfsInterruptedLeavesNoImage(t *testing.T) {
	src := slowTree(t)
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run("reading a pipe that says nothing, "+sig.String(), func(t *testing.T) {
			dir := t.TempDir()
			c := process(t, "mkfs", "--shrink", "--tar", "-", filepath.Join(dir, "image"))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			c.Stdin = r
			begun := time.Now()
			interrupt(t, c, sig, func() bool { return time.Since(begun) > 300*time.Millisecond })
			empty(t, dir)
		})
		t.Run("writing, "+sig.String(), func(t *testing.T) {
			dir := t.TempDir()
			c := process(t, "mkfs", "-q", "--shrink", "--compress", "zstd:15", "-r", src, filepath.Join(dir, "image"))
			said := interrupt(t, c, sig, func() bool {
				list, err := os.ReadDir(dir)
				return err == nil && len(list) > 0
			})
			if strings.Contains(said, "text") || !strings.Contains(said, "signal") {
				t.Errorf("it says %q, which should be about the signal and about no file", said)
			}
			empty(t, dir)
		})
	}
}

// TestMkfsInterruptedOnADevice interrupts the formatting of a block device that held
// a filesystem: afterwards it holds none.
func TestMkfsInterruptedOnADevice(t *testing.T) {
	oracle.Need(t, oracle.Root, oracle.Loop)
	src := slowTree(t)
	images := oracle.Sparse(t, 1, 256<<20)
	if out, code := command(t, "mkfs", "-q", images[0]); code != exitDone {
		t.Fatalf("mkfs: %d %s", code, out)
	}
	magic := func() bool {
		b := make([]byte, disk.SuperInfoSize)
		f, err := os.Open(images[0])
		if err == nil {
			_, err = f.ReadAt(b, disk.SuperInfoOffset)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return disk.HasMagic(b)
	}
	if !magic() {
		t.Fatal("no filesystem to begin with")
	}
	oracle.Attached(t, images, func(loops []string) {
		c := process(t, slices.Concat([]string{"mkfs", "-q", "-f", "--compress", "zstd:15", "-r", src}, loops)...)
		interrupt(t, c, syscall.SIGTERM, func() bool {
			b := make([]byte, disk.SuperInfoSize)
			f, err := os.Open(loops[0])
			if err == nil {
				_, err = f.ReadAt(b, disk.SuperInfoOffset)
				err = errors.Join(err, f.Close())
			}
			return err == nil && !disk.HasMagic(b)
		})
	})
	if magic() {
		t.Error("there is a superblock")
	}
}

// TestMkfsNamesWhatItCannotRead runs as an ordinary user on trees that hold something
// closed to it.
func TestMkfsNamesWhatItCannotRead(t *testing.T) {
	for what, shut := range map[string]func(p string) error{
		"file":      func(p string) error { return os.WriteFile(p, []byte("secret"), 0) },
		"directory": func(p string) error { return os.Mkdir(p, 0) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := oracle.Dir(t)
			oracle.Run(t, "mkdir", "-p", dir+"/tree/a", dir+"/out")
			if err := shut(filepath.Join(dir, "tree/a/shut")); err != nil {
				t.Fatal(err)
			}
			c := process(t, "mkfs", "--shrink", "-r", dir+"/tree", dir+"/out/image")
			if os.Geteuid() == 0 {
				const nobody = 65534
				oracle.Run(t, "cp", c.Path, dir+"/gobtrfs") // where a user gets at it
				oracle.Run(t, "chmod", "777", dir, dir+"/out")
				c.Path = dir + "/gobtrfs"
				c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			out, err := c.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), "a/shut") {
				t.Errorf("%v: %s", err, out)
			}
			empty(t, dir+"/out")
		})
	}
}
