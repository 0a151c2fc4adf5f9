//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/fusefs"
)

func (a *app) mount(ctx context.Context, r *mountRequest) error {
	if err := checkMountPoint(r.dir); err != nil {
		return err
	}
	if r.o.remount {
		return remount(r)
	}
	if r.foreground || r.readyFD != 0 {
		return a.serveMount(ctx, r)
	}
	return startServer(ctx, r)
}

// checkMountPoint tells what is in the way, most of all what a killed server
// leaves behind.
func checkMountPoint(dir string) error {
	// statfs and not stat, which the kernel may still know the answer of.
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("%s is a mount whose server is gone: take it away with 'gobtrfs umount %s' and mount again", dir, dir)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return nil
}

// remount makes a mount read-only or, if its filesystem is open for writing,
// writable again. All else stays as it is.
func remount(r *mountRequest) error {
	m, err := findMount(r.dir)
	if err != nil {
		return err
	}
	if m.fsType != mountType {
		return fmt.Errorf("%s is a mount of type %s, not %s", r.dir, m.fsType, mountType)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		return fmt.Errorf("remount %s: %w", r.dir, err)
	}
	// The bits of statfs and of mount have the same values, as far as these go.
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(st.Flags)&kept | unix.MS_REMOUNT
	if r.o.readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(m.source, m.dir, "", flags, ""); err != nil {
		return fmt.Errorf("remount %s: %w", r.dir, err)
	}
	return nil
}

// readyMark is what the server writes when the mount is there.
const readyMark = "ready\n"

// startServer runs this program again in the background and waits until it
// has mounted. A Go program cannot fork: its other threads would be missing.
func startServer(ctx context.Context, r *mountRequest) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(self, r.serverArgs()...)
	cmd.Args[0] = "gobtrfs" // and not the name of a mount helper, if we have that
	cmd.Dir = "/"           // so as not to keep a directory busy
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr // until it has mounted
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	buf := make([]byte, len(readyMark))
	if n, _ := ready.Read(buf); string(buf[:n]) == readyMark {
		return cmd.Process.Release()
	}
	err = cmd.Wait() // it has said on standard error what is wrong
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return codeError{code: exit.ExitCode()}
	}
	return fmt.Errorf("the server ended before it had mounted: %w", err)
}

// serverArgs is the command line of the server in the background. The ready
// pipe is the first descriptor behind the standard ones.
func (r *mountRequest) serverArgs() []string {
	args := []string{"mount", "--ready-fd", "3", "--metrics", r.metrics}
	log := r.o.log
	if log == "" {
		log = logSyslog
	}
	return append(args, "--log", log, "-o", r.o.String(), "--", r.image, r.dir)
}

// serveMount mounts and serves until the mount is gone.
func (a *app) serveMount(ctx context.Context, r *mountRequest) error {
	log, closeLog, err := a.openLog(r)
	if err != nil {
		return err
	}
	defer closeLog()
	// Before anything is mounted: a signal that came between would leave a
	// mount behind.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, endSignals...)
	defer signal.Stop(signals)

	fsys, err := openToMount(ctx, r, log)
	if err != nil {
		return err
	}
	defer func() {
		if err := fsys.Close(); err != nil {
			log.Error("close", "err", err)
		}
	}()
	sub, err := selectSubvolume(ctx, fsys.FS, &r.o)
	if err != nil {
		return err
	}
	srv, err := fusefs.Mount(context.WithoutCancel(ctx), sub, r.dir, r.fuseOptions(log))
	if err != nil {
		return mountError(r, err)
	}
	log.Info("mounted", "image", r.image, "dir", r.dir, "fsid", fsys.UUID().String(), "subvol", uint64(sub.ID()), "writable", fsys.Writer() != nil)
	for _, name := range r.o.ignored {
		log.Info("option has no effect", "option", name)
	}
	live := &liveMount{fs: fsys.FS, devs: fsys.devs, srv: srv, since: time.Now(), run: a.run, names: map[string]bool{}}
	if r.metrics != "" {
		stop, err := serveMetrics(r.metrics, live, log)
		if err != nil {
			return errors.Join(fmt.Errorf("serve metrics: %w", err), srv.Unmount())
		}
		defer stop()
	}
	control, err := serveControl(context.WithoutCancel(ctx), r, live, log)
	if err != nil {
		log.Warn("other commands cannot reach this mount", "err", err)
	}
	defer func() {
		if err := control.Close(); err != nil {
			log.Warn("close the control socket", "err", err)
		}
	}()
	if err := r.tellReady(); err != nil {
		return errors.Join(err, srv.Unmount())
	}
	waitForEnd(srv, signals, log)
	if err := srv.Err(); err != nil {
		log.Error("unmounted, and what was changed since the last commit is lost", "dir", r.dir, "err", err)
		return err
	}
	log.Info("unmounted", "dir", r.dir)
	return nil
}

// waitForEnd returns when the mount is gone. A signal unmounts; if the mount is
// in use it disappears from the directory tree and ends with its last user. A
// second signal ends the server at once.
func waitForEnd(srv *fusefs.Server, signals <-chan os.Signal, log *slog.Logger) {
	for detached := false; ; {
		select {
		case <-srv.Done():
			return
		case sig := <-signals:
			if detached {
				log.Warn("second signal: ending while the mount is in use", "signal", sig.String())
				srv.Abort()
				return
			}
			err := srv.Unmount()
			if err == nil {
				return
			}
			detached = true
			log.Warn("cannot unmount yet; the mount ends with its last user", "signal", sig.String(), "err", err)
			if err := srv.Detach(); err != nil {
				log.Error("detach", "err", err)
			}
		}
	}
}

// tellReady lets go of whoever waits, and of the terminal.
func (r *mountRequest) tellReady() error {
	if r.readyFD == 0 {
		return nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range []int{0, 1, 2} {
		if fd == 2 && r.o.log == logStderr {
			continue
		}
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("let go of the terminal: %w", err)
		}
	}
	ready := os.NewFile(uintptr(r.readyFD), "ready")
	defer ready.Close()
	// Whoever waited may be gone; the mount is there all the same.
	_, err = ready.WriteString(readyMark)
	if errors.Is(err, unix.EPIPE) {
		err = nil
	}
	return err
}

func (r *mountRequest) fuseOptions(log *slog.Logger) fusefs.Options {
	o := fusefs.Options{
		Source: r.o.source, AllowOther: r.o.allowOther, Suid: r.o.suid, Dev: r.o.dev, NoExec: r.o.noExec,
		Direct: os.Geteuid() == 0, Log: log, WritebackCache: r.o.writeback,
		Atime: r.o.atime, NoDirAtime: r.o.noDirAtime, Inodes: r.o.inodes,
	}
	if o.Source == "" {
		o.Source = r.image
	}
	return o
}

// mountError adds what usually helps.
func mountError(r *mountRequest, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, exec.ErrNotFound):
		if _, statErr := os.Stat("/dev/fuse"); statErr != nil {
			return fmt.Errorf("%w (the kernel has no FUSE: %w)", err, statErr)
		}
		return fmt.Errorf("%w (ordinary users need fusermount3, from the package fuse3)", err)
	case os.Geteuid() != 0 && r.o.allowOther:
		return fmt.Errorf("%w (allow_other takes user_allow_other in /etc/fuse.conf)", err)
	}
	return err
}

// openToMount opens the filesystem that the options name.
func openToMount(ctx context.Context, r *mountRequest, log *slog.Logger) (*image, error) {
	m := &image{}
	r.o.open.Writable = !r.o.readOnly
	r.o.image.writable = r.o.open.Writable
	if err := openWhenFree(ctx, r, m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	o := r.o.open
	o.Events = logEvents(log)
	var err error
	m.FS, err = btrfs.OpenDevices(ctx, m.devs, o)
	for root := 1; err != nil && r.o.backup && root <= disk.NumBackupRoots; root++ {
		log.Warn("going back to a backup root", "backup", root, "err", err)
		o.BackupRoot = root
		var again error
		if m.FS, again = btrfs.OpenDevices(ctx, m.devs, o); again == nil {
			return m, nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// umount(8) does not wait for a FUSE server: the one that had the image may
// still be writing its last commit. Waiting for it is bounded.
const (
	lastCommitWait = time.Minute
	lastCommitStep = 20 * time.Millisecond
)

// openWhenFree opens the devices. If they are locked, and not because they are
// mounted, it waits.
func openWhenFree(ctx context.Context, r *mountRequest, m *image) error {
	for waited := time.Duration(0); ; waited += lastCommitStep {
		err := r.o.image.openDevices(ctx, m, r.image)
		if !errors.Is(err, unix.EWOULDBLOCK) || waited >= lastCommitWait {
			return err
		}
		if dir, ok := mountedOn(r.image); ok {
			return fmt.Errorf("%s is mounted on %s already", r.image, dir)
		}
		if err := m.Close(); err != nil {
			return err
		}
		m.devs = nil
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lastCommitStep):
		}
	}
}

// mountedOn says where an image is mounted, as far as mounts tell it.
func mountedOn(image string) (dir string, ok bool) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(info)) {
		if m, ok := parseMountInfo(line); ok && m.fsType == mountType && m.source == image {
			return m.dir, true
		}
	}
	return "", false
}

// selectSubvolume opens the subvolume that the options name.
func selectSubvolume(ctx context.Context, fsys *btrfs.FS, o *mountOptions) (*btrfs.Subvolume, error) {
	if o.subvol == "" {
		if o.subvolID == 0 {
			return fsys.Default(ctx)
		}
		return fsys.Subvolume(ctx, o.subvolID)
	}
	top, err := fsys.TopLevel(ctx)
	if err != nil {
		return nil, err
	}
	f, err := top.Open(ctx, o.subvol)
	if err != nil {
		return nil, fmt.Errorf("subvol=%s: %w", o.subvol, err)
	}
	if !f.IsSubvolume() {
		return nil, fmt.Errorf("subvol=%s is not a subvolume", o.subvol)
	}
	if id := f.Subvolume().ID(); o.subvolID != 0 && id != o.subvolID {
		return nil, fmt.Errorf("subvol=%s is subvolume %d, not %d", o.subvol, uint64(id), uint64(o.subvolID))
	}
	return f.Subvolume(), nil
}
