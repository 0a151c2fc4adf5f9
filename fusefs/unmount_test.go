//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

// Who looks at a mount for a moment does not make its unmount fail; who stays does.
func TestUnmountWaitsForAGlance(t *testing.T) {
	for _, tc := range []struct {
		name string
		stay time.Duration
		want error
	}{
		{"a glance", 20 * time.Millisecond, nil},
		{"a user", time.Minute, unix.EBUSY},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, "/", Options{}, oracle.Mkfs(t, 128*mib))
			fd, err := unix.Open(s.dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			leave := time.AfterFunc(tc.stay, func() { unix.Close(fd) })
			if err := s.Unmount(); !errors.Is(err, tc.want) {
				t.Errorf("unmount: %v, want %v", err, tc.want)
			}
			if leave.Stop() {
				unix.Close(fd)
			}
		})
	}
}
