package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/report"
)

type lsFlags struct {
	image     imageFlags
	long      bool
	recursive bool
	dir       bool
	inode     bool
	json      bool
}

func newLsCmd(a *app) *cobra.Command {
	var o lsFlags
	cmd := &cobra.Command{
		Use:   "ls IMAGE [PATH]",
		Short: "List a directory",
		Long: `ls lists a directory of the filesystem, names in byte order, hidden ones too.
Owners are numbers: the names on this machine are not those of the image. Names
that are not printable are written with %XX.

With --json each line is an object as in the verb manifest, without contents.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.image.registerSubvol(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.long, "long", "l", false, "one line each with mode, links, owner, size and time")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "list directories below too")
	f.BoolVarP(&o.dir, "directory", "d", false, "list a directory itself, not what is in it")
	f.BoolVarP(&o.inode, "inode", "i", false, "print inode numbers")
	f.BoolVar(&o.json, "json", false, "print one JSON object a line")
	return cmd
}

func (o *lsFlags) run(ctx context.Context, a *app, args []string) error {
	m, err := o.image.open(ctx, a, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	name := pathArg(args)
	top, err := o.image.file(ctx, m, name, !o.long && !o.dir)
	if err != nil {
		return err
	}
	l := &lister{ctx: ctx, a: a, o: o, seen: seenDirs{}}
	if !top.Mode().IsDir() || o.dir {
		return l.entry(top, name, name)
	}
	return l.directory(top, "", name)
}

// pathArg is the optional PATH after IMAGE.
func pathArg(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return "/"
}

type lister struct {
	ctx  context.Context
	a    *app
	o    *lsFlags
	seen seenDirs
	buf  []byte
}

// seenDirs knows the directories that were entered: in a damaged filesystem
// they may form a circle.
type seenDirs map[[2]disk.ObjectID]bool

func (s seenDirs) enter(f *btrfs.File) error {
	id := [2]disk.ObjectID{f.Subvolume().ID(), f.Ino()}
	if !f.IsStub() && s[id] {
		return report.ErrLoop
	}
	s[id] = true
	return nil
}

// directory lists what is in dir; path is its path below the top.
func (l *lister) directory(dir *btrfs.File, path, shown string) error {
	if err := l.seen.enter(dir); err != nil {
		return &fs.PathError{Op: "list", Path: shown, Err: err}
	}
	entries, err := report.Entries(l.ctx, dir)
	if l.o.recursive && !l.o.json {
		if path != "" {
			fmt.Fprintln(l.a.out)
		}
		fmt.Fprintf(l.a.out, "%s:\n", manifest.Escape(shown))
	}
	errs := []error{err}
	subs := make([]*btrfs.File, len(entries))
	for i := range entries {
		e := &entries[i]
		sub := joinPath(path, e.Name)
		needed := l.o.long || l.o.json || l.o.inode || l.o.recursive && e.Type.IsDir()
		if !needed { // no inode to be read: a plain name
			l.buf = append(append(l.buf[:0], manifest.Escape(e.Name)...), '\n')
			if _, err := l.a.out.Write(l.buf); err != nil {
				return err
			}
			continue
		}
		f, err := dir.OpenEntry(l.ctx, e)
		if err == nil {
			err = l.entry(f, e.Name, sub)
		}
		if err != nil {
			errs = append(errs, &fs.PathError{Op: "list", Path: sub, Err: err})
			continue
		}
		if f.Mode().IsDir() {
			subs[i] = f
		}
	}
	if !l.o.recursive {
		return errors.Join(errs...)
	}
	for i, f := range subs {
		if f != nil {
			sub := joinPath(path, entries[i].Name)
			if err := l.directory(f, sub, strings.TrimRight(shown, "/")+"/"+entries[i].Name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// entry prints one file.
func (l *lister) entry(f *btrfs.File, name, path string) error {
	b := l.buf[:0]
	if l.o.json {
		e, err := report.Describe(l.ctx, f, path, manifest.All&^manifest.SHA256)
		if err != nil {
			return err
		}
		b = manifest.Append(b, &e, manifest.All)
	} else {
		if l.o.inode {
			b = append(strconv.AppendUint(b, uint64(f.Ino()), 10), ' ')
		}
		if l.o.long {
			b = appendLong(b, f)
		}
		b = append(b, manifest.Escape(name)...)
		if l.o.long && f.Mode()&fs.ModeSymlink != 0 {
			target, err := f.Readlink(l.ctx)
			if err != nil {
				return err
			}
			b = append(append(b, " -> "...), manifest.Escape(target)...)
		}
		b = append(b, '\n')
	}
	l.buf = b
	_, err := l.a.out.Write(b)
	return err
}

// appendLong appends what ls -l shows before the name, with the time in UTC.
func appendLong(b []byte, f *btrfs.File) []byte {
	item := f.Item()
	b = appendMode(b, item.Mode)
	b = appendPadded(b, uint64(item.Nlink), 4)
	b = appendPadded(b, uint64(item.UID), 6)
	b = appendPadded(b, uint64(item.GID), 6)
	if t := item.Mode & 0o170000; t == 0o020000 || t == 0o060000 {
		major, minor := disk.SplitRdev(item.Rdev)
		b = appendPadded(b, uint64(major), 8)
		b = append(b, ',')
		b = appendPadded(b, uint64(minor), 4)
	} else {
		b = appendPadded(b, uint64(f.Size()), 13)
	}
	b = append(b, ' ')
	b = f.ModTime().UTC().AppendFormat(b, time.DateTime)
	return append(b, ' ')
}

func appendPadded(b []byte, v uint64, width int) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], v, 10)
	b = append(b, ' ')
	for range width - len(d) {
		b = append(b, ' ')
	}
	return append(b, d...)
}

// appendMode writes st_mode as ls does: "drwxr-sr-x".
func appendMode(b []byte, mode uint32) []byte {
	const types = "?pc?d?b?-?l?s???"
	b = append(b, types[mode>>12&15])
	for shift := 6; shift >= 0; shift -= 3 {
		bits := mode >> shift & 7
		for i, c := range []byte("rwx") {
			if bits&(4>>i) == 0 {
				c = '-'
			}
			b = append(b, c)
		}
		special, letter := mode&(0o1000<<(shift/3)) != 0, byte('s')
		if shift == 0 {
			letter = 't'
		}
		switch last := &b[len(b)-1]; {
		case special && *last == 'x':
			*last = letter
		case special:
			*last = letter - 'a' + 'A'
		}
	}
	return b
}
