//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"sync"
	"time"

	btrfs "gobtrfs"
	"gobtrfs/internal/volume"
)

// openLog opens what --log names. The default in the background is syslog,
// and nothing where there is none: containers seldom have one.
func (a *app) openLog(r *mountRequest) (*slog.Logger, func(), error) {
	nothing := func() {}
	switch r.o.log {
	case "", logStderr:
		return slog.New(slog.NewTextHandler(a.errOut, nil)), nothing, nil
	case logSyslog:
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, "gobtrfs")
		if err != nil {
			fmt.Fprintln(a.errOut, "gobtrfs: there is no syslog: damage will not be logged (see --log)")
			return slog.New(slog.DiscardHandler), nothing, nil
		}
		return slog.New(slog.NewTextHandler(w, withoutTime)), func() { w.Close() }, nil
	}
	f, err := os.OpenFile(r.o.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return slog.New(slog.NewTextHandler(io.Writer(f), nil)), func() { f.Close() }, nil
}

// withoutTime leaves out what syslog writes itself.
var withoutTime = &slog.HandlerOptions{ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) == 0 && attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}}

// logEvents writes what the volume finds to the log, a bounded number of lines
// a second: a bad device fails at every read.
func logEvents(log *slog.Logger) btrfs.Events {
	l := &lineLimit{now: time.Now}
	write := func(msg string, args ...any) {
		ok, dropped := l.take()
		if !ok {
			return
		}
		if dropped > 0 {
			args = append(args, "lines_left_out", dropped)
		}
		log.Warn(msg, args...)
	}
	return btrfs.Events{
		CorruptionFound: func(e btrfs.CorruptError) { write("bad copy", "err", e.Error()) },
		ReadFailed:      func(e btrfs.DeviceError) { write("device does not give its bytes", "err", e.Error()) },
		CorruptionRepaired: func(r volume.Repair) {
			write("read from another copy", "logical", uint64(r.Logical), "bytes", r.Length, "mirror", r.Mirror)
		},
		CopiesRewritten: func(r volume.Repair) {
			write("bad copies overwritten", "logical", uint64(r.Logical), "bytes", r.Length, "mirror", r.Mirror, "copies", r.Rewritten, "err", r.Err)
		},
		Noticed: func(n volume.Notice) { log.Info("devices", "notice", n.String()) },
	}
}

// Limits of lineLimit.
const (
	lineBurst     = 100
	lineEverySoft = 100 * time.Millisecond
)

// lineLimit lets a burst through, and then a line every now and then.
type lineLimit struct {
	now func() time.Time

	mu      sync.Mutex
	tokens  int
	last    time.Time
	dropped int
}

// take says whether a line may be written, and how many could not be before it.
func (l *lineLimit) take() (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.last.IsZero() {
		l.tokens, l.last = lineBurst, now
	}
	if n := int(now.Sub(l.last) / lineEverySoft); n > 0 {
		l.tokens, l.last = min(lineBurst, l.tokens+n), now
	}
	if l.tokens == 0 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
