package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
)

func TestSizesReadLikeBtrfsProgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		u    units
		n    uint64
		want string
	}{
		{units{}, 0, "0.00B"},
		{units{}, 1023, "1023.00B"},
		{units{}, 16384, "16.00KiB"},
		{units{}, 1610612736, "1.50GiB"},
		{units{}, 1<<64 - 1, "16.00EiB"},
		{units{si: true}, 1500, "1.50kB"},
		{units{si: true}, 8 << 30, "8.59GB"},
		{units{raw: true}, 8 << 30, "8589934592"},
		{units{raw: true, si: true}, 5, "5"},
	} {
		if got := tc.u.size(tc.n); got != tc.want {
			t.Errorf("%+v.size(%d) = %q, want %q", tc.u, tc.n, got, tc.want)
		}
	}
}

func TestExitCodeFollowsTheError(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("any"), 1},
		{fmt.Errorf("x: %w", usagef("bad")), 2},
		{codeError{3, ""}, 3},
		{fmt.Errorf("write: %w", syscall.ENOSPC), 4},
		{errors.Join(context.Canceled, syscall.ENOSPC), 1},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("exitCode(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestWrongUseExitsWithTwo(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"nonsense"}, {"version", "extra"}, {"version", "--no-such-flag"}} {
		var errOut bytes.Buffer
		if code := run(t.Context(), args, newApp(strings.NewReader(""), io.Discard, &errOut)); code != exitUsage {
			t.Errorf("%q exits with %d, want %d: %s", args, code, exitUsage, errOut.String())
		}
		if !strings.HasPrefix(errOut.String(), "gobtrfs: ") {
			t.Errorf("%q says %q", args, errOut.String())
		}
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestLostOutputIsAnError(t *testing.T) {
	t.Parallel()
	if code := run(t.Context(), []string{"version"}, newApp(strings.NewReader(""), fullWriter{}, io.Discard)); code != exitNoSpace {
		t.Errorf("exit code %d, want %d", code, exitNoSpace)
	}
}
