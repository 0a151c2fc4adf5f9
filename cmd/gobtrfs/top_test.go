package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gobtrfs/fusefs"
)

// TestTopFitsASmallTerminal draws the worst case.
func TestTopFitsASmallTerminal(t *testing.T) {
	t.Parallel()
	huge := uint64(1<<64 - 1)
	s := &mountStats{
		Label: strings.Repeat("Ä", 255), Failure: strings.Repeat("long ", 50), Transaction: huge, Read: huge, Written: huge, UptimeNS: 1000 * time.Hour,
	}
	for _, typ := range []string{"metadata", "system", "data"} {
		s.Space = append(s.Space, spaceStats{Type: typ, Profile: "RAID1C4", Total: huge, Used: huge, Promised: huge, Waiting: 1 << 30, Made: huge >> 1})
	}
	for id := range uint64(30) {
		s.Devices = append(s.Devices, mountDeviceInfo{ID: id, Allocated: huge, Unallocated: huge})
	}
	for range 20 {
		s.Ops = append(s.Ops, fusefs.OpStats{Name: "getattr", Requests: huge, Errors: huge, Time: 1 << 62})
	}
	var past growth
	for range 100 {
		past.add(&mountStats{}, s)
	}
	lines := topScreen(nil, s, past)
	if len(lines) > topLines {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n > topColumns {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

func TestTopShowsRates(t *testing.T) {
	t.Parallel()
	before := &mountStats{UptimeNS: time.Second, Written: 1 << 20, Ops: []fusefs.OpStats{{Name: "read", Requests: 7}, {Name: "write", Requests: 10}}}
	now := &mountStats{
		UptimeNS: 3 * time.Second, Written: 5 << 20, Writable: true, Transaction: 42,
		Ops: []fusefs.OpStats{{Name: "read", Requests: 7}, {Name: "write", Requests: 30, Time: 20 * time.Millisecond}},
	}
	text := strings.Join(topScreen(before, now, nil), "\n")
	for _, want := range []string{"2.00MiB/s", "transaction 42", "writable"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	fields := strings.Fields(text[strings.Index(text, "\nwrite "):])
	if fields[1] != "30" || fields[2] != "10" || fields[3] != "1ms" {
		t.Errorf("the line of writes says %q", fields[:5])
	}
	if strings.Index(text, "\nwrite ") > strings.LastIndex(text, "\nread ") {
		t.Error("the busiest kind of request does not stand first")
	}
}

func TestTopShowsChunksThatWereMade(t *testing.T) {
	t.Parallel()
	var past growth
	var before *mountStats
	for _, n := range []struct{ made, removed uint64 }{{5, 0}, {5, 0}, {7, 0}, {30, 0}, {30, 4}, {31, 4}} {
		now := &mountStats{Space: []spaceStats{{Type: "data", Made: n.made, RemovedCh: n.removed}}}
		past.add(before, now)
		before = now
	}
	if text := strings.Join(topScreen(nil, before, past), "\n"); !strings.Contains(text, "growth data      .2+-1\n") {
		t.Errorf("no growth in:\n%s", text)
	}
}
