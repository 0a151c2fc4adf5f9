package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"gobtrfs"
)

var putEdit = edit{
	use:   "SRC… PATH",
	short: "Copy files into an image",
	long: `put copies files and directories of this machine into the image, with
permissions, owners where the system tells them, and times. If PATH is a
directory they go into it; else there is one SRC, and PATH is its new name.
A file that has the name is replaced. "-" is standard input.`,
	least: 2, most: -1,
	prepare: func(f *pflag.FlagSet) editFunc {
		root := f.Bool("all-root", false, "everything belongs to user and group 0")
		return func(ctx context.Context, t *editTarget, args []string) error {
			p := putter{t: t, root: *root}
			dst := args[len(args)-1]
			into := p.isDir(ctx, dst)
			if len(args) > 2 && !into {
				return fmt.Errorf("%s: %w", dst, syscall.ENOTDIR)
			}
			for _, src := range args[:len(args)-1] {
				to := dst
				if into {
					if src == "-" {
						return usagef("standard input needs the name of a file")
					}
					to = path.Join(dst, filepath.Base(src))
				}
				if err := p.put(ctx, p.local(src), to); err != nil {
					return err
				}
			}
			return nil
		}
	},
}

// putter copies into the image.
type putter struct {
	t    *editTarget
	root bool
}

func (p *putter) isDir(ctx context.Context, name string) bool {
	info, err := p.t.Stat(ctx, name)
	return err == nil && info.Mode().IsDir()
}

// local is where a source is, in the caller's working directory.
func (p *putter) local(src string) string {
	if src == "-" {
		return src
	}
	return p.t.a.path(src)
}

func (p *putter) put(ctx context.Context, src, dst string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if src == "-" {
		if p.t.batch {
			return usagef("standard input cannot be put in a batch")
		}
		return p.contents(ctx, p.t.a.input(ctx), dst, btrfs.Attr{Perm: 0o644})
	}
	fi, err := os.Lstat(src)
	if err != nil {
		return err
	}
	a := btrfs.Attr{Perm: fi.Mode() &^ fs.ModeType}
	if !p.root {
		a.UID, a.GID = fileOwner(fi)
	}
	switch mode := fi.Mode(); {
	case mode.IsRegular():
		err = p.file(ctx, src, dst, a)
	case mode.IsDir():
		err = p.dir(ctx, src, dst, a)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := p.replace(ctx, dst); err != nil {
			return err
		}
		return p.t.Symlink(ctx, target, dst, a.UID, a.GID)
	default:
		err = fmt.Errorf("put %s: neither file, directory nor symbolic link: %w", src, errors.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	mtime := fi.ModTime()
	return p.t.Chtimes(ctx, dst, &mtime, &mtime)
}

// replace takes away what has the name, unless it is a directory.
func (p *putter) replace(ctx context.Context, name string) error {
	if p.isDir(ctx, name) {
		return fmt.Errorf("%s: %w", name, syscall.EISDIR)
	}
	err := p.t.Remove(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p *putter) file(ctx context.Context, src, dst string, a btrfs.Attr) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.contents(ctx, f, dst, a)
}

func (p *putter) contents(ctx context.Context, r io.Reader, dst string, a btrfs.Attr) error {
	if err := p.replace(ctx, dst); err != nil {
		return err
	}
	if err := p.t.Create(ctx, dst, a); err != nil {
		return err
	}
	_, err := p.t.WriteFrom(ctx, dst, r, 0)
	return err
}

func (p *putter) dir(ctx context.Context, src, dst string, a btrfs.Attr) error {
	err := p.t.Mkdir(ctx, dst, a)
	if err != nil && !(errors.Is(err, fs.ErrExist) && p.isDir(ctx, dst)) {
		return err
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := p.put(ctx, filepath.Join(src, e.Name()), path.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
