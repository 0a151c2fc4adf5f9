package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/report"
)

type statFlags struct {
	image   imageFlags
	follow  bool
	extents bool
	json    bool
}

func newStatCmd(a *app) *cobra.Command {
	var o statFlags
	cmd := &cobra.Command{
		Use:   "stat IMAGE [PATH]",
		Short: "Show all that is known of a file",
		Args:  cobra.RangeArgs(1, 2),
		RunE:  func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.image.registerSubvol(cmd)
	cmd.Flags().BoolVarP(&o.follow, "follow", "L", false, "follow a symbolic link")
	cmd.Flags().BoolVar(&o.extents, "extents", false, "list the file's extents too")
	cmd.Flags().BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

// statJSON is what stat prints with --json.
type statJSON struct {
	Path       string       `json:"path"`
	Type       string       `json:"type"`
	Mode       string       `json:"mode"`
	UID        uint32       `json:"uid"`
	GID        uint32       `json:"gid"`
	Size       int64        `json:"size"`
	Disk       uint64       `json:"nbytes"`
	Nlink      uint32       `json:"nlink"`
	Ino        uint64       `json:"ino"`
	Subvol     uint64       `json:"subvol"`
	Generation uint64       `json:"generation"`
	TransID    uint64       `json:"transid"`
	Rdev       string       `json:"rdev,omitempty"`
	Target     *string      `json:"target,omitempty"`
	Flags      string       `json:"flags,omitempty"`
	Stub       bool         `json:"stub,omitempty"`
	Atime      string       `json:"atime"`
	Mtime      string       `json:"mtime"`
	Ctime      string       `json:"ctime"`
	Btime      string       `json:"btime"`
	Names      []string     `json:"names,omitempty"`
	Xattrs     []xattrJSON  `json:"xattrs,omitempty"`
	Extents    []extentJSON `json:"extents,omitempty"`
}

type xattrJSON struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

type extentJSON struct {
	Start       uint64 `json:"start"`
	End         uint64 `json:"end"`
	Kind        string `json:"kind"`
	Compression string `json:"compression,omitempty"`
	Logical     uint64 `json:"logical,omitempty"`
	DiskBytes   uint64 `json:"disk_bytes,omitempty"`
	Offset      uint64 `json:"offset,omitempty"`
}

func (o *statFlags) run(ctx context.Context, a *app, args []string) error {
	m, err := o.image.open(ctx, a, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	name := pathArg(args)
	f, err := o.image.file(ctx, m, name, o.follow)
	if err != nil {
		return err
	}
	s, err := o.describe(ctx, f, name)
	if err != nil {
		return err
	}
	if o.json {
		return a.printJSON(s)
	}
	s.print(a.out)
	return nil
}

var typeNames = map[byte]string{
	'f': "regular file", 'd': "directory", 'l': "symbolic link", 'c': "character device", 'b': "block device", 'p': "fifo", 's': "socket",
}

func (o *statFlags) describe(ctx context.Context, f *btrfs.File, name string) (*statJSON, error) {
	e, err := report.Describe(ctx, f, name, manifest.All&^manifest.SHA256)
	if err != nil {
		return nil, err
	}
	item := f.Item()
	s := &statJSON{
		Path: manifest.Escape(name), Type: typeNames[e.Type], Mode: fmt.Sprintf("%04o", item.Mode&0o7777), UID: item.UID, GID: item.GID,
		Size: f.Size(), Disk: item.NBytes, Nlink: item.Nlink, Ino: uint64(f.Ino()), Subvol: uint64(f.Subvolume().ID()),
		Generation: uint64(item.Generation), TransID: uint64(item.TransID), Flags: flagLetters(f.Flags()), Stub: f.IsStub(),
		Atime: timeText(item.Atime), Mtime: timeText(item.Mtime), Ctime: timeText(item.Ctime), Btime: timeText(item.Otime),
	}
	if e.Has&manifest.Rdev != 0 {
		s.Rdev = fmt.Sprintf("%d:%d", e.RdevMajor, e.RdevMinor)
	}
	if f.Mode()&fs.ModeSymlink != 0 {
		target := manifest.Escape(e.Target)
		s.Target = &target
	}
	if f.IsStub() {
		return s, nil
	}
	names, err := f.Names(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		s.Names = append(s.Names, fmt.Sprintf("%d/%s", uint64(n.Parent), manifest.Escape(n.Name)))
	}
	xattrs, err := f.Xattrs(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range xattrs {
		s.Xattrs = append(s.Xattrs, xattrJSON{manifest.Escape(x.Name), x.Value})
	}
	if o.extents && f.Mode().IsRegular() {
		s.Extents, err = extentList(ctx, f)
	}
	return s, err
}

func extentList(ctx context.Context, f *btrfs.File) ([]extentJSON, error) {
	var list []extentJSON
	for e, err := range f.Extents(ctx, 0) {
		if err != nil {
			return nil, err
		}
		x := extentJSON{Start: e.Start, End: e.End, Kind: "regular"}
		switch {
		case e.Hole:
			x.Kind = "hole"
		case e.Item.Type == disk.FileExtentInline:
			x.Kind = "inline"
		case e.Item.Type == disk.FileExtentPrealloc:
			x.Kind = "prealloc"
		}
		if !e.Hole && e.Item.Compression != disk.CompressNone {
			x.Compression = e.Item.Compression.String()
		}
		if x.Kind == "regular" || x.Kind == "prealloc" {
			x.Logical, x.DiskBytes, x.Offset = uint64(e.Item.DiskBytenr), e.Item.DiskNumBytes, e.Item.Offset
		}
		list = append(list, x)
	}
	return list, nil
}

func (s *statJSON) print(w io.Writer) {
	kind := s.Type
	if s.Stub {
		kind = "stub of a subvolume that the snapshot did not take along"
	}
	fmt.Fprintf(w, "  File: %s", s.Path)
	if s.Target != nil {
		fmt.Fprintf(w, " -> %s", *s.Target)
	}
	fmt.Fprintf(w, "\n  Size: %d\tOn disk: %d\t%s\n", s.Size, s.Disk, kind)
	fmt.Fprintf(w, " Inode: %d\tSubvolume: %d\tLinks: %d", s.Ino, s.Subvol, s.Nlink)
	if s.Rdev != "" {
		fmt.Fprintf(w, "\tDevice: %s", s.Rdev)
	}
	fmt.Fprintf(w, "\nAccess: %s\tUid: %d\tGid: %d", s.Mode, s.UID, s.GID)
	if s.Flags != "" {
		fmt.Fprintf(w, "\tFlags: %s", s.Flags)
	}
	fmt.Fprintf(w, "\nAccess: %s\nModify: %s\nChange: %s\n Birth: %s\n", s.Atime, s.Mtime, s.Ctime, s.Btime)
	fmt.Fprintf(w, "Created in transaction %d, changed in %d\n", s.Generation, s.TransID)
	for _, n := range s.Names {
		fmt.Fprintf(w, "  Name: %s\n", n)
	}
	for _, x := range s.Xattrs {
		fmt.Fprintf(w, " Xattr: %s=%q\n", x.Name, x.Value)
	}
	for _, e := range s.Extents {
		fmt.Fprintf(w, "Extent: %d-%d %s", e.Start, e.End, e.Kind)
		if e.Compression != "" {
			fmt.Fprintf(w, " %s", e.Compression)
		}
		if e.Logical != 0 {
			fmt.Fprintf(w, " at %d+%d, %d bytes on disk", e.Logical, e.Offset, e.DiskBytes)
		}
		fmt.Fprintln(w)
	}
}

func timeText(t disk.Time) string {
	return time.Unix(t.Sec, int64(t.Nsec)).UTC().Format("2006-01-02 15:04:05.000000000 +0000")
}

// flagLetters writes the FS_*_FL bits with lsattr's letters.
func flagLetters(flags uint32) string {
	var b strings.Builder
	for _, f := range []struct {
		bit    uint32
		letter byte
	}{
		{0x8, 'S'}, {0x10000, 'D'}, {0x10, 'i'}, {0x20, 'a'}, {0x40, 'd'}, {0x80, 'A'}, {0x4, 'c'}, {0x400, 'm'}, {0x800000, 'C'}, {0x100000, 'V'},
	} {
		if flags&f.bit != 0 {
			b.WriteByte(f.letter)
		}
	}
	return b.String()
}
