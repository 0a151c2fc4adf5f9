//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gobtrfs/fusefs"
)

// mountType is our mounts' type in /proc/self/mountinfo.
const mountType = "fuse.gobtrfs"

// mountEntry is a line of /proc/self/mountinfo.
type mountEntry struct {
	dir, fsType string
	connection  uint64 // the kernel's number of the FUSE connection: the device
	source      string
}

// umount unmounts and waits for the server.
func (a *app) umount(ctx context.Context, dir string, lazy bool) error {
	m, err := findMount(dir)
	if err != nil {
		return err
	}
	if m.fsType != mountType {
		return fmt.Errorf("%s is a mount of type %s, not of gobtrfs", dir, m.fsType)
	}
	server, err := openServer(m) // before it can be gone
	if err != nil {
		return err
	}
	defer server.close()
	err = fusefs.Unmount(m.dir, os.Geteuid() == 0, lazy)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: it is in use (see fuser -vm %s), or give --lazy", err, m.dir)
	}
	if err != nil || lazy {
		return err
	}
	err = server.wait(ctx, m)
	var elsewhere mountedElsewhereError
	if errors.As(err, &elsewhere) {
		fmt.Fprintf(a.errOut, "gobtrfs: warning: %s: %v\n", dir, err)
		return nil
	}
	return err
}

// mountedElsewhereError says that a mount is gone here and goes on in another
// mount namespace, for as long as that has it.
type mountedElsewhereError struct{ proc string }

func (e mountedElsewhereError) Error() string {
	return "process " + e.proc + " is in another mount namespace that has the mount, too; its server goes on"
}

// elsewhere finds a process that still has a mount.
func elsewhere(m mountEntry) error {
	procs, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		return err
	}
	for _, p := range procs {
		info, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended, or is none of our business
		}
		for line := range strings.Lines(string(info)) {
			if e, ok := parseMountInfo(line); ok && e.fsType == mountType && e.connection == m.connection {
				return mountedElsewhereError{filepath.Base(filepath.Dir(p))}
			}
		}
	}
	return nil
}

// findMount finds what is mounted on dir, the topmost if several are.
func findMount(dir string) (m mountEntry, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return m, err
	}
	// A mount whose server is gone cannot be looked at, its parent can.
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	} else if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return m, err
	}
	found := false
	for line := range strings.Lines(string(info)) {
		if e, ok := parseMountInfo(line); ok && e.dir == abs {
			m, found = e, true // later lines are on top
		}
	}
	if !found {
		return m, fmt.Errorf("nothing is mounted on %s", dir)
	}
	return m, nil
}

// parseMountInfo reads a line of mountinfo (proc_pid_mountinfo(5)): the device
// is field 3, the directory 5, the type follows a lone dash.
func parseMountInfo(line string) (m mountEntry, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false
	}
	for i := 6; i+1 < len(fields); i++ {
		if fields[i] == "-" {
			m.fsType = fields[i+1]
			if i+2 < len(fields) {
				m.source = unescapeMountInfo(fields[i+2])
			}
			break
		}
	}
	major, minor, _ := strings.Cut(fields[2], ":")
	hi, err1 := strconv.ParseUint(major, 10, 32)
	lo, err2 := strconv.ParseUint(minor, 10, 32)
	m.connection = hi<<20 | lo
	m.dir = unescapeMountInfo(fields[4])
	return m, errors.Join(err1, err2) == nil && m.fsType != ""
}

// unescapeMountInfo turns \ooo back into bytes.
func unescapeMountInfo(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// serverProcess is the process that answers for a mount.
type serverProcess struct{ fd int } // a pidfd; -1: not found

// openServer finds the process by its open /dev/fuse: since Linux 6.10
// /proc/PID/fdinfo tells the connection. On older kernels it is the one whose
// last argument is the directory. None is found for a mount whose server was
// killed, or belongs to somebody else.
func openServer(m mountEntry) (serverProcess, error) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return serverProcess{-1}, err
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != "/dev/fuse" {
			continue
		}
		proc := filepath.Dir(filepath.Dir(fd))
		if !servesMount(proc, filepath.Base(fd), m) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		h, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue // gone in the meantime
		}
		if err != nil {
			return serverProcess{-1}, os.NewSyscallError("pidfd_open", err)
		}
		return serverProcess{h}, nil
	}
	return serverProcess{-1}, nil
}

func servesMount(proc, fd string, m mountEntry) bool {
	info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd))
	if err != nil {
		return false
	}
	const label = "fuse_connection:"
	if _, number, ok := strings.Cut(string(info), label); ok {
		number, _, _ = strings.Cut(number, "\n")
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		return err == nil && n == m.connection
	}
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && strings.HasSuffix(string(args), "\x00"+m.dir+"\x00")
}

// waitStepMS is how often the wait looks at its context. After waitAlone steps it
// looks whether others have the mount.
const (
	waitStepMS = 100
	waitAlone  = 20
)

// wait waits for the end of the server of a mount that was just taken away.
func (s serverProcess) wait(ctx context.Context, m mountEntry) error {
	if s.fd < 0 {
		return nil
	}
	for step := 1; ; step++ {
		if step%waitAlone == 0 {
			if err := elsewhere(m); err != nil {
				return err
			}
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, waitStepMS)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("unmounted, but the server has not finished: %w", err)
		}
	}
}

func (s serverProcess) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
}
