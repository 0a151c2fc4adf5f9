package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// status shows what a long verb is doing: on a terminal one line that is
// rewritten, elsewhere a line every now and then. Start it, close it.
type status struct {
	a    *app
	line func() string
	stop chan struct{}
	wg   sync.WaitGroup
}

const (
	statusTerminalEvery = 100 * time.Millisecond
	statusLogEvery      = 10 * time.Second
)

// startStatus calls line from a goroutine of its own until Close; line must be
// safe to call while the work goes on. With quiet nothing is printed.
func (a *app) startStatus(quiet bool, line func() string) *status {
	s := &status{a: a, line: line, stop: make(chan struct{})}
	if !quiet {
		s.wg.Go(s.loop)
	}
	return s
}

func (s *status) loop() {
	every := statusLogEvery
	if s.a.statusTTY {
		every = statusTerminalEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for width := 0; ; {
		select {
		case <-s.stop:
			if s.a.statusTTY && width > 0 {
				fmt.Fprintf(s.a.errOut, "\r%s\r", strings.Repeat(" ", width))
			}
			return
		case <-tick.C:
		}
		text := s.line()
		if s.a.statusTTY {
			fmt.Fprintf(s.a.errOut, "\r%-*s", width, text)
			width = len(text)
		} else {
			fmt.Fprintln(s.a.errOut, text)
		}
	}
}

// Close takes the line away and waits for the goroutine. It must be called
// before anything else is written to the terminal.
func (s *status) Close() {
	close(s.stop)
	s.wg.Wait()
}
