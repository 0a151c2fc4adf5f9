package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// On a terminal one line is rewritten and taken away; elsewhere lines come every
// ten seconds; with quiet there is nothing.
func TestStatusLine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		tty, quiet bool
		want       string
	}{
		{"terminal", true, false, "\rlonger\rlonger\rx     \r \r"},
		{"log", false, false, "x\n"},
		{"quiet", true, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var errOut bytes.Buffer
				a := newApp(strings.NewReader(""), io.Discard, &errOut)
				a.statusTTY = tc.tty
				start := time.Now()
				s := a.startStatus(tc.quiet, func() string {
					if time.Since(start) < 250*time.Millisecond {
						return "longer"
					}
					return "x"
				})
				if tc.tty {
					time.Sleep(350 * time.Millisecond)
				} else {
					time.Sleep(15 * time.Second)
				}
				s.Close()
				if got := errOut.String(); got != tc.want {
					t.Errorf("printed %q, want %q", got, tc.want)
				}
			})
		})
	}
}
