package oracle

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// logWatch reads the kernel log from the moment it was made.
type logWatch struct {
	fd int
}

func watchLog(t testing.TB) *logWatch {
	t.Helper()
	fd, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("open /dev/kmsg", err))
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if _, err := syscall.Seek(fd, 0, io.SeekEnd); err != nil {
		t.Fatal(os.NewSyscallError("seek /dev/kmsg", err))
	}
	return &logWatch{fd: fd}
}

var (
	btrfsComplaint = regexp.MustCompile(`BTRFS.*\b(warning|error|critical|alert|emergency)\b|BTRFS: Transaction aborted`)
	// An assertion in the kernel names no device; it counts for everybody who
	// has something mounted at that moment.
	kernelBug = regexp.MustCompile(`(WARNING|BUG|Oops):? .*\b(btrfs|BTRFS)`)
)

// complaints returns the warnings and errors logged since the last call about
// the filesystem or one of its devices. Other tests run at the same time, so
// lines that name neither are passed over.
func (w *logWatch) complaints(fsid string, loops []string) []string {
	var found []string
	buf := make([]byte, 16<<10) // a record is at most 8 KiB
	for {
		n, err := syscall.Read(w.fd, buf)
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EINTR) {
			continue // overwritten before we came: the next read goes on after the gap
		}
		if err != nil || n <= 0 {
			return found
		}
		_, msg, _ := strings.Cut(string(buf[:n]), ";")
		msg, _, _ = strings.Cut(msg, "\n")
		if kernelBug.MatchString(msg) || btrfsComplaint.MatchString(msg) && concerns(msg, fsid, loops) {
			found = append(found, msg)
		}
	}
}

func concerns(msg, fsid string, loops []string) bool {
	if strings.Contains(msg, fsid) {
		return true
	}
	for _, l := range loops {
		name := strings.TrimPrefix(l, "/dev/")
		if regexp.MustCompile(`\b` + name + `\b`).MatchString(msg) {
			return true
		}
	}
	return false
}
