package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// mountRequest is one call of mount.
type mountRequest struct {
	image, dir string
	o          mountOptions
	foreground bool
	metrics    string // address to serve metrics at; "": none
	readyFD    int    // where the server says that it has mounted; 0: nowhere
}

func newMountCmd(a *app) *cobra.Command {
	var r mountRequest
	var devices, scan, opts []string
	cmd := &cobra.Command{
		Use:   "mount [-o OPTIONS] IMAGE DIR",
		Short: "Show a filesystem as a directory (FUSE)",
		Long: `mount serves the filesystem on IMAGE at DIR through FUSE, as root or as an
ordinary user (who needs fusermount3). It returns when the mount is there and
leaves a server behind; --foreground keeps it.

Options, after -o and separated by commas:
  ro                      read-only
  subvol=PATH             show this subvolume in place of the default one
  subvolid=ID             the same, by its number; 5 is the top level
  device=PATH, scan=DIR   further members of the filesystem (repeatable)
  degraded                mount although devices are missing
  rescue=WHAT[:WHAT…]     nologreplay, ignoredatacsums, usebackuproot
  offset=N, partition=N   where in IMAGE the filesystem is
  allow_other             let other users in
  suid, dev, noexec       as in mount(8); without them nosuid, nodev, exec
  noatime, strictatime    when reading changes times of access: never, always;
                          without them relatime: if that tells something new.
                          Reads from the kernel's memory do not count
  nodiratime              times of access of directories stay as they are
  compress[-force]=A[:L]  compress what is written: zlib, lzo, zstd, none
  discard                 give what is freed back to the devices, so that image
                          files stay sparse (see also the verb trim)
  nodatacow, nodatasum    new files are written in place, have no checksums
  commit=SECONDS          make changes durable at least this often (default 30)
  writeback_cache         let the kernel collect writes: small ones become fast,
                          but "no space" is reported as late as at close
  cache_mib=N, dirty_mib=N  memory for tree blocks, and for contents and tree
                          blocks not yet written (default 256, 128)
  inodes=N                how many the kernel may keep in memory, at some 40 bytes
                          of the server's each (default 2097152)
  fsname=NAME             what df(1) shows as the device
  log=FILE                log to a file, to "syslog" or to "stderr"

Options that mount(8) and /etc/fstab use for themselves are accepted, and so
are options of btrfs that only tune the kernel's. All others are refused.

Installed as /sbin/mount.fuse.gobtrfs the same program is a helper of mount(8):
    mount -t fuse.gobtrfs IMAGE DIR
    IMAGE  DIR  fuse.gobtrfs  allow_other  0  0        (in /etc/fstab)
and as /sbin/umount.fuse.gobtrfs one of umount(8), which then waits until all is
written. For root, umount(8) often asks no helper and returns before: use umount of
this program where the image is needed at rest.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, list := range []struct {
				option string
				paths  []string
			}{{"device=", devices}, {"scan=", scan}} {
				for _, p := range list.paths {
					opts = append(opts, list.option+p)
				}
			}
			if err := r.parse(args[0], args[1], strings.Join(opts, ","), false); err != nil {
				return err
			}
			return a.mount(cmd.Context(), &r)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opts, "options", "o", nil, "mount options, separated by commas (repeatable)")
	f.StringArrayVar(&devices, "device", nil, "further member `PATH` of the filesystem (repeatable)")
	f.StringArrayVar(&scan, "scan", nil, "look for further members in `DIR` (repeatable)")
	f.BoolVarP(&r.foreground, "foreground", "f", false, "do not go into the background; log to standard error")
	f.StringVar(&r.o.log, "log", "", `where to log: a file, "syslog" or "stderr" (default syslog in the background)`)
	f.StringVar(&r.metrics, "metrics", "", "serve metrics for Prometheus at http://`ADDR`/metrics")
	f.IntVar(&r.readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err) // the flag is defined in the line above
	}
	return cmd
}

// parse fills in what the command line says. The server changes its directory,
// so paths become absolute.
func (r *mountRequest) parse(image, dir, opts string, sloppy bool) (err error) {
	if err = parseMountOptions(opts, &r.o, sloppy); err != nil {
		return err
	}
	if r.image, err = filepath.Abs(image); err != nil {
		return err
	}
	if r.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if r.o.log != "" && r.o.log != logSyslog && r.o.log != logStderr {
		if r.o.log, err = filepath.Abs(r.o.log); err != nil {
			return err
		}
	}
	return nil
}

// Values of --log that are not files.
const (
	logSyslog = "syslog"
	logStderr = "stderr"
)

// programArgs are the arguments for run: the program's own, and in front of
// them the hidden verb if it was called by the name of a helper of mount(8) or
// umount(8).
func programArgs(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	switch name := filepath.Base(argv[0]); {
	case strings.HasPrefix(name, "mount."):
		return append([]string{"mount-helper"}, argv[1:]...)
	case strings.HasPrefix(name, "umount."):
		return append([]string{"umount-helper"}, argv[1:]...)
	}
	return argv[1:]
}

// exitMount is mount(8)'s exit code for a mount that failed.
const exitMount = 32

// newMountHelperCmd is what mount(8) calls: DEV DIR [-sfnv] [-N NS] [-o OPTS]
// [-t TYPE], in this order (mount(8), "External helpers").
func newMountHelperCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:                "mount-helper IMAGE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, fake, err := parseHelperArgs(args)
			if err == nil && !fake {
				err = a.mount(cmd.Context(), r)
			}
			if err == nil {
				return nil
			}
			var code codeError
			if errors.As(err, &code) {
				return codeError{exitMount, code.msg}
			}
			return codeError{exitMount, err.Error()}
		},
	}
}

func parseHelperArgs(args []string) (r *mountRequest, fake bool, err error) {
	r = &mountRequest{}
	// As root mount(8) honours set-uid bits and devices unless told not to.
	if os.Geteuid() == 0 {
		r.o.suid, r.o.dev = true, true
	}
	var names, opts []string
	sloppy := false
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			names = append(names, arg)
			continue
		}
		for i := 1; i < len(arg); i++ {
			switch c := arg[i]; c {
			case 's':
				sloppy = true
			case 'f':
				fake = true
			case 'n', 'v', 'w': // no mtab, verbose, and rw, which -o says too
			case 'r':
				opts = append(opts, "ro")
			case 'o', 't', 'N':
				value := arg[i+1:]
				if value == "" {
					if len(args) == 0 {
						return nil, false, usagef("option -%c needs a value", c)
					}
					value, args = args[0], args[1:]
				}
				if c == 'o' {
					opts = append(opts, value)
				}
				i = len(arg)
			default:
				return nil, false, usagef("unknown option -%c", c)
			}
		}
	}
	if len(names) != 2 {
		return nil, false, usagef("want a device and a directory, have %q", names)
	}
	return r, fake, r.parse(names[0], names[1], strings.Join(opts, ","), sloppy)
}
