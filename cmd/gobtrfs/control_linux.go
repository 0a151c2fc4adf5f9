//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxControlRequest bounds a command line, in bytes.
const maxControlRequest = 4 << 20

// controlDir is where a user's servers have their sockets. Nobody else may
// enter it.
func controlDir() string {
	if os.Geteuid() == 0 {
		return "/run/gobtrfs"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "gobtrfs")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("gobtrfs-%d", os.Geteuid()))
}

// controlNames are the names under which the server of an image, or of the
// mount that a directory is in, has its socket: they come from what is there
// and not from how it is called. None: it can have no server.
func controlNames(i *imageFlags, name string) []string {
	var st unix.Stat_t
	if err := unix.Stat(i.abs(name), &st); err != nil {
		return nil
	}
	where := ""
	switch {
	case i.partition != 0:
		where = fmt.Sprintf("-p%d", i.partition)
	case i.offset != 0:
		where = fmt.Sprintf("-o%d", i.offset)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return []string{fmt.Sprintf("file-%x-%d%s", st.Dev, st.Ino, where)}
	case unix.S_IFBLK:
		return []string{fmt.Sprintf("block-%x%s", st.Rdev, where)}
	case unix.S_IFDIR:
		return []string{fmt.Sprintf("mount-%x", st.Dev)}
	}
	return nil
}

// abs is a path that the caller gave.
func (i *imageFlags) abs(name string) string {
	if i.dir == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(i.dir, name)
}

// forward lets the server of an image, if there is one, do what this command
// line says. The error is then a forwardedError. A socket that nobody listens on
// is what a killed server left.
func (a *app) forward(ctx context.Context, i *imageFlags, name string) error {
	for _, n := range controlNames(i, name) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(controlDir(), n), Net: "unix"})
		if err != nil {
			continue
		}
		defer conn.Close()
		code, err := a.talk(ctx, conn)
		if err != nil {
			return fmt.Errorf("%s is mounted, and its server does not answer: %w", name, err)
		}
		return forwardedError{code}
	}
	return nil
}

func (a *app) talk(ctx context.Context, conn *net.UnixConn) (code int, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	req, err := json.Marshal(controlRequest{Args: a.argv, Dir: dir})
	if err != nil {
		return 0, err
	}
	in, inOK := a.in.(*os.File)
	out, outOK := a.outFile.(*os.File)
	errOut, errOK := a.errOut.(*os.File)
	if !inOK || !outOK || !errOK {
		return 0, errors.New("standard streams are no files")
	}
	if err := a.out.Flush(); err != nil {
		return 0, err
	}
	rights := unix.UnixRights(int(in.Fd()), int(out.Fd()), int(errOut.Fd()))
	if _, _, err := conn.WriteMsgUnix([]byte{'\n'}, rights, nil); err != nil {
		return 0, err
	}
	if _, err := conn.Write(append(req, '\n')); err != nil {
		return 0, err
	}
	// An interrupt is passed on as the end of our half.
	defer context.AfterFunc(ctx, func() { conn.CloseWrite() })()
	var reply controlReply
	err = json.NewDecoder(conn).Decode(&reply)
	return reply.Code, err
}

// controlServer answers clients of a mount.
type controlServer struct {
	l     *net.UnixListener
	links []string
	wg    sync.WaitGroup
	stop  context.CancelFunc
}

// serveControl listens for verbs about a mounted filesystem.
func serveControl(ctx context.Context, r *mountRequest, live *liveMount, log *slog.Logger) (*controlServer, error) {
	dir := controlDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Mode != unix.S_IFDIR|0o700 || int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s: somebody else can enter it", dir)
	}
	names := controlNames(&r.o.image, r.image)
	for _, d := range r.o.image.devices {
		names = append(names, controlNames(&imageFlags{}, d)...)
	}
	names = append(names, controlNames(&imageFlags{}, r.dir)...)
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: neither file nor device", r.image)
	}
	c := &controlServer{}
	for n, name := range names {
		live.names[name] = true
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, errors.Join(err, c.Close())
		}
		var err error
		if n == 0 {
			c.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				err = os.Chmod(path, 0o600)
			}
		} else if err = os.Symlink(names[0], path); err == nil {
			c.links = append(c.links, path)
		}
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.wg.Go(func() {
		for {
			conn, err := c.l.AcceptUnix()
			if err != nil {
				return // closed
			}
			c.wg.Go(func() {
				defer conn.Close()
				if err := live.answer(ctx, conn); err != nil {
					log.Warn("control request failed", "err", err)
				}
			})
		}
	})
	return c, nil
}

// Close ends all requests and takes the socket away.
func (c *controlServer) Close() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.stop != nil {
		c.stop()
	}
	for _, path := range c.links {
		errs = append(errs, os.Remove(path))
	}
	if c.l != nil {
		errs = append(errs, c.l.Close()) // removes the socket, too
	}
	c.wg.Wait()
	return errors.Join(errs...)
}

// answer carries out one verb.
func (l *liveMount) answer(ctx context.Context, conn *net.UnixConn) error {
	files, err := receiveFiles(conn)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxControlRequest))
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	var req controlRequest
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the connection
		if _, err := in.ReadByte(); err != nil {
			cancel()
		}
	}()
	a := newApp(files[0], files[1], files[2])
	a.dir, a.live = req.Dir, l
	return json.NewEncoder(conn).Encode(controlReply{l.run(ctx, req.Args, a)})
}

// receiveFiles takes the caller's standard streams, if the caller is who runs
// the server, or root.
func receiveFiles(conn *net.UnixConn) ([]*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return nil, errors.Join(err, credErr)
	}
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return nil, fmt.Errorf("user %d: %w", cred.Uid, unix.EPERM)
	}
	const streams = 3
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*streams))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	if len(files) != streams {
		return files, fmt.Errorf("%d standard streams: %w", len(files), unix.EINVAL)
	}
	return files, nil
}
