//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/internal/clock"
)

// Options of a mount. The zero value mounts for the calling user alone.
type Options struct {
	// Source is what mount(8) and df(1) show as the device. Default: "gobtrfs".
	Source string
	// AllowOther lets other users than the one who mounts in; permissions are
	// checked as on any filesystem. Default: only that user.
	AllowOther bool
	// Suid, Dev honour set-uid bits and device nodes. Default: neither.
	Suid, Dev bool
	// NoExec forbids running programs. Default: they may run.
	NoExec bool
	// Atime says when reading changes the time of access. Default:
	// AtimeRelative.
	Atime AtimeMode
	// NoDirAtime leaves the times of access of directories alone. Default: they
	// are as those of files.
	NoDirAtime bool
	// WritebackCache lets the kernel collect writes in its memory: small writes
	// become fast, and "no space" is reported as late as at close or fsync.
	// Default: each write reaches the server before it returns.
	WritebackCache bool
	// Inodes is how many inodes the kernel may keep in its memory before it is
	// asked to drop some that nobody uses (Linux 6.18 and later do). Each takes 40
	// bytes or so of the server's. Default: DefaultInodes.
	Inodes int64
	// Direct mounts with mount(2), which takes privileges. Default: the helper
	// fusermount3 mounts.
	Direct bool
	// Log is told of damage. Default: nobody is.
	Log *slog.Logger
}

// DefaultInodes is the default of Options.Inodes.
const DefaultInodes = 2 << 20

// Server serves one mount.
type Server struct {
	dir    string
	direct bool
	server *server
	fuse   *fuse.Server
	cancel context.CancelFunc
	done   chan struct{} // closed when the mount is gone and all is answered and durable
	err    error         // of the last commit; read it after done
}

// Limits of what is in flight.
const (
	maxRequest    = 1 << 20 // bytes that one request reads
	maxBackground = 64      // requests that nobody waits for: read-ahead
	// maxInFlight is bytes of input buffers. A writer that waits for the device
	// holds one of maxRequest; when all are held nobody is answered, so it is as
	// many as hardly ever write to different files at the same time.
	maxInFlight = 256 << 20
)

// Mount mounts a subvolume on a directory, for writing if the filesystem is
// open for writing, and answers the kernel
// from then on until the mount is gone: Wait waits for that. ctx ends waits for
// the device, not the mount.
func Mount(ctx context.Context, sub *btrfs.Subvolume, dir string, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Source == "" {
		o.Source = "gobtrfs"
	}
	if o.Inodes <= 0 {
		o.Inodes = DefaultInodes
	}
	ctx, cancel := context.WithCancel(ctx)
	raw, err := newServer(ctx, sub, &faults{log: o.Log}, &o)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("read the top directory: %w", err)
	}
	fs, err := fuse.NewServer(counted{raw, clock.System{}}, dir, o.fuse(raw.known != nil))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	s := &Server{dir: dir, direct: o.Direct, server: raw, fuse: fs, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer cancel()
		fs.Serve()
		raw.work.Wait()
		s.err = raw.finish()
	}()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("look at %s: %w", dir, err), s.Unmount())
	}
	raw.dev.Store(st.Dev)
	if o.Direct {
		if err := readAhead(&st); err != nil {
			o.Log.Debug("read-ahead stays as it is", "err", err)
		}
	}
	return s, nil
}

// readAhead lets the kernel read as far ahead as one request reaches. Its own
// limit is 128 KiB, whatever the protocol negotiates; only the administrator can
// raise it.
func readAhead(st *unix.Stat_t) error {
	limit := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	return os.WriteFile(limit, fmt.Append(nil, maxRequest>>10), 0)
}

// fuse translates the options.
func (o Options) fuse(write bool) *fuse.MountOptions {
	m := &fuse.MountOptions{
		Name: "gobtrfs", FsName: o.Source, AllowOther: o.AllowOther,
		DirectMountStrict: o.Direct, DirectMountFlags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV,
		EnableAcl: true, EnableSymlinkCaching: true,
		// Nothing changes behind the kernel's back, or it is told: it need not look
		// at times to find out whether its pages are still good.
		ExplicitDataCacheControl: true,
		MaxWrite:                 maxRequest, MaxReadAhead: maxRequest, MaxBackground: maxBackground, MaxInflightRequestBytes: maxInFlight,
		// Answers come from memory: splicing them would cost system calls, and a
		// full one does not fit into a pipe.
		DisableSplice:     true,
		ExtraCapabilities: fuse.CAP_EXPORT_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_ASYNC_DIO,
		Options:           []string{"default_permissions"},
		Logger:            slog.NewLogLogger(o.Log.Handler(), slog.LevelInfo),
		PanicHandler: func(v any) fuse.Status {
			o.Log.Error("panic", "value", v, "stack", string(debug.Stack()))
			return fuse.EIO
		},
	}
	set := func(on bool, name string) {
		if on {
			m.Options = append(m.Options, name)
		}
	}
	set(o.Suid, "suid")
	set(o.Dev, "dev")
	set(o.NoExec, "noexec")
	set(!write && !o.Direct, "ro")
	m.DirectMountFlags |= o.atimeFlags()
	if write {
		m.DirectMountFlags &^= unix.MS_RDONLY
		// After an asynchronous direct write the kernel (6.18) does not look for
		// pages that readers have filled meanwhile: they would stay stale.
		m.ExtraCapabilities &^= fuse.CAP_ASYNC_DIO
		m.ExtraCapabilities |= fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_DONT_MASK | fuse.CAP_DIRECT_IO_ALLOW_MMAP
		if o.WritebackCache {
			m.ExtraCapabilities |= fuse.CAP_WRITEBACK_CACHE
		}
	}
	return m
}

// atimeFlags is what mount(8) shows; it is the server that keeps the times.
func (o Options) atimeFlags() (flags uintptr) {
	switch o.Atime {
	case AtimeAlways:
		flags = unix.MS_STRICTATIME
	case AtimeNever:
		flags = unix.MS_NOATIME
	}
	if o.NoDirAtime {
		flags |= unix.MS_NODIRATIME
	}
	return flags
}

// Done is closed when the mount is gone, every request is answered, and all
// that was written is durable, unless Err says otherwise.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the last commit failed, nil if it did not. Call it after Done.
func (s *Server) Err() error { return s.err }

// Unmount unmounts and waits until everything is answered. The error is EBUSY
// while somebody uses the mount.
func (s *Server) Unmount() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := Unmount(s.dir, s.direct, false); err != nil {
		return err
	}
	<-s.done
	return nil
}

// Detach takes the mount out of the tree of directories. It ends when the last
// user has left it.
func (s *Server) Detach() error { return Unmount(s.dir, s.direct, true) }

// Stats is what the mount has done so far.
func (s *Server) Stats() Stats {
	out := s.server.counters.stats()
	if r, ok := s.server.RawFileSystem.(*readWrite); ok {
		out.Removed = r.removedInodes()
	}
	return out
}

// Abort ends reads that wait for the device.
func (s *Server) Abort() { s.cancel() }
