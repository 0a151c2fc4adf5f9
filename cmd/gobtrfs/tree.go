package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/report"
)

type treeFlags struct {
	image imageFlags
	depth int
	json  bool
}

func newTreeCmd(a *app) *cobra.Command {
	var o treeFlags
	cmd := &cobra.Command{
		Use:   "tree IMAGE [PATH]",
		Short: "Draw a directory tree",
		Long: `tree draws the directory PATH and what is below it. Subvolumes are marked with
their ids, symbolic links with their targets.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.image.registerSubvol(cmd)
	cmd.Flags().IntVarP(&o.depth, "depth", "L", 0, "go down `N` levels only (0: all)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object, directories with their children")
	return cmd
}

func (o *treeFlags) run(ctx context.Context, a *app, args []string) error {
	m, err := o.image.open(ctx, a, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	name := pathArg(args)
	top, err := o.image.file(ctx, m, name, true)
	if err != nil {
		return err
	}
	t := &drawer{ctx: ctx, a: a, o: o, seen: seenDirs{}}
	if o.json {
		root, err := t.object(top, name, 1)
		return errors.Join(err, a.printJSON(root))
	}
	label, err := t.label(top, name)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, label)
	err = t.draw(top, "", 1)
	fmt.Fprintf(a.out, "\n%d directories, %d files\n", t.dirs, t.files)
	return err
}

type drawer struct {
	ctx         context.Context
	a           *app
	o           *treeFlags
	seen        seenDirs
	dirs, files int
}

// children lists a directory that is entered for the first time.
func (t *drawer) children(dir *btrfs.File, level int) ([]btrfs.DirEntry, error) {
	if !dir.Mode().IsDir() || t.o.depth > 0 && level > t.o.depth {
		return nil, nil
	}
	if err := t.seen.enter(dir); err != nil {
		return nil, err
	}
	return report.Entries(t.ctx, dir)
}

func (t *drawer) count(f *btrfs.File) {
	if f.Mode().IsDir() {
		t.dirs++
	} else {
		t.files++
	}
}

func (t *drawer) draw(dir *btrfs.File, indent string, level int) error {
	entries, err := t.children(dir, level)
	errs := []error{err}
	for i := range entries {
		branch, below := "├── ", "│   "
		if i == len(entries)-1 {
			branch, below = "└── ", "    "
		}
		label := manifest.Escape(entries[i].Name)
		f, err := dir.OpenEntry(t.ctx, &entries[i])
		if err == nil {
			t.count(f)
			label, err = t.label(f, entries[i].Name)
		}
		if err != nil {
			errs = append(errs, &fs.PathError{Op: "read", Path: entries[i].Name, Err: err})
			label += "  [damaged]"
		}
		fmt.Fprintf(t.a.out, "%s%s%s\n", indent, branch, label)
		if err == nil && f.Mode().IsDir() {
			errs = append(errs, t.draw(f, indent+below, level+1))
		}
	}
	return errors.Join(errs...)
}

func (t *drawer) label(f *btrfs.File, name string) (string, error) {
	name = manifest.Escape(name)
	switch {
	case f.IsStub():
		return name + "  [subvolume that the snapshot did not take along]", nil
	case f.IsSubvolume():
		return fmt.Sprintf("%s  [subvolume %d]", name, uint64(f.Subvolume().ID())), nil
	case f.Mode()&fs.ModeSymlink != 0:
		target, err := f.Readlink(t.ctx)
		return name + " -> " + manifest.Escape(target), err
	}
	return name, nil
}

type treeNode struct {
	Name     string      `json:"name"`
	Type     string      `json:"type"`
	Subvol   uint64      `json:"subvol,omitempty"`
	Stub     bool        `json:"stub,omitempty"`
	Target   string      `json:"target,omitempty"`
	Size     *int64      `json:"size,omitempty"`
	Error    string      `json:"error,omitempty"`
	Children []*treeNode `json:"children,omitempty"`
}

// object is the same for programs.
func (t *drawer) object(f *btrfs.File, name string, level int) (*treeNode, error) {
	e, err := report.Describe(t.ctx, f, name, manifest.TypeField|manifest.Target)
	n := &treeNode{Name: manifest.Escape(name), Type: string(e.Type), Stub: f.IsStub(), Target: manifest.Escape(e.Target)}
	if f.IsSubvolume() {
		n.Subvol = uint64(f.Subvolume().ID())
	}
	if f.Mode().IsRegular() {
		size := f.Size()
		n.Size = &size
	}
	entries, listErr := t.children(f, level)
	errs := []error{err, listErr}
	for i := range entries {
		child, err := f.OpenEntry(t.ctx, &entries[i])
		if err != nil {
			errs = append(errs, err)
			n.Children = append(n.Children, &treeNode{Name: manifest.Escape(entries[i].Name), Error: err.Error()})
			continue
		}
		sub, err := t.object(child, entries[i].Name, level+1)
		errs = append(errs, err)
		n.Children = append(n.Children, sub)
	}
	return n, errors.Join(errs...)
}
