package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/report"
)

type manifestFlags struct {
	image      imageFlags
	fields     string
	noContents bool
	compare    string
	json       bool
}

func newManifestCmd(a *app) *cobra.Command {
	var o manifestFlags
	cmd := &cobra.Command{
		Use:   "manifest IMAGE [PATH]",
		Short: "Print one JSON line for each file, to compare trees by program",
		Long: `manifest says what stat, readlink, listxattr and the contents say of each file
below PATH: one JSON object a line, depth first, names in byte order.

With --compare it prints the differences against a saved manifest instead, and
the exit code is 1 if there are any. Only the selected fields are looked at.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.image.registerSubvol(cmd)
	f := cmd.Flags()
	f.StringVar(&o.fields, "fields", "", "print only these `KEYS`, separated by commas")
	f.BoolVar(&o.noContents, "no-contents", false, "do not read contents: no sha256")
	f.StringVar(&o.compare, "compare", "", "print the differences against the manifest in `FILE` (- is standard input)")
	f.BoolVar(&o.json, "json", false, "accepted for symmetry: a manifest is JSON; differences too, with this")
	return cmd
}

func (o *manifestFlags) run(ctx context.Context, a *app, args []string) error {
	sel := manifest.All
	if o.fields != "" {
		var err error
		if sel, err = manifest.ParseFields(o.fields); err != nil {
			return usageError{err}
		}
	}
	if o.noContents {
		sel &^= manifest.SHA256 | manifest.ReadError
	}
	m, err := o.image.open(ctx, a, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	top, err := o.image.file(ctx, m, pathArg(args), true)
	if err != nil {
		return err
	}
	if o.compare != "" {
		return o.difference(ctx, a, top, sel)
	}
	var buf []byte
	var errs []error
	unreadable := 0
	for e, err := range report.Manifest(ctx, top, sel) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e.Has&manifest.ReadError != 0 {
			unreadable++
		}
		buf = manifest.Append(buf[:0], &e, sel)
		if _, err := a.out.Write(buf); err != nil {
			return err
		}
	}
	if unreadable > 0 {
		errs = append(errs, codeError{exitDamage, fmt.Sprintf("the contents of %d files cannot be read", unreadable)})
	}
	return errors.Join(errs...)
}

type differenceJSON struct {
	Path  string `json:"path"`
	Field string `json:"field,omitempty"`
	Want  string `json:"want,omitempty"`
	Got   string `json:"got,omitempty"`
}

func (o *manifestFlags) difference(ctx context.Context, a *app, top *btrfs.File, sel manifest.Fields) error {
	in := a.in
	if o.compare != "-" {
		f, err := os.Open(a.path(o.compare))
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	c, err := manifest.NewComparison(manifest.Read(in), sel)
	if err != nil {
		return err
	}
	n := 0
	print := func(ds []manifest.Difference) error {
		for _, d := range ds {
			n++
			if o.json {
				if err := a.printLine(differenceJSON{manifest.Escape(d.Path), d.Field, d.Want, d.Got}); err != nil {
					return err
				}
			} else if _, err := fmt.Fprintln(a.out, d); err != nil {
				return err
			}
		}
		return nil
	}
	var errs []error
	for e, err := range report.Manifest(ctx, top, sel) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := print(c.Add(&e)); err != nil {
			return err
		}
	}
	if err := print(c.Missing()); err != nil {
		return err
	}
	if n > 0 {
		errs = append(errs, codeError{exitFailed, fmt.Sprintf("%d differences", n)})
	}
	return errors.Join(errs...)
}
