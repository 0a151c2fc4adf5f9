package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
)

func newSubvolumeCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "subvolume VERB …",
		Short: "List, show and change subvolumes and snapshots",
	}
	cmd.AddCommand(newSubvolumeListCmd(a), newSubvolumeShowCmd(a), newSubvolumeGetDefaultCmd(a))
	for _, name := range subvolumeEdits {
		cmd.AddCommand(newEditVerb(a, "subvolume "+name))
	}
	return cmd
}

// subvolJSON is a subvolume for programs; uuids that are not set are absent.
type subvolJSON struct {
	ID           uint64     `json:"id"`
	Path         string     `json:"path"` // from the top level
	ParentID     uint64     `json:"parent_id"`
	Generation   uint64     `json:"generation"`
	OGeneration  uint64     `json:"generation_at_creation"`
	ReadOnly     bool       `json:"read_only"`
	Default      bool       `json:"default"`
	UUID         *disk.UUID `json:"uuid,omitempty"`
	ParentUUID   *disk.UUID `json:"parent_uuid,omitempty"`
	ReceivedUUID *disk.UUID `json:"received_uuid,omitempty"`
	Created      string     `json:"created,omitempty"`
	Flags        uint64     `json:"flags"`
	SendTransID  uint64     `json:"send_transid"`
	RecvTransID  uint64     `json:"receive_transid"`
	Snapshots    []string   `json:"snapshots,omitempty"`
}

func subvolToJSON(i *btrfs.SubvolumeInfo, def disk.ObjectID) subvolJSON {
	uuid := func(u disk.UUID) *disk.UUID {
		if u.IsZero() {
			return nil
		}
		return &u
	}
	item := &i.Item
	s := subvolJSON{
		ID: uint64(i.ID), Path: manifest.Escape(i.Path), ParentID: uint64(i.ParentID), Generation: uint64(item.Generation),
		OGeneration: uint64(item.OTransID), ReadOnly: i.ReadOnly(), Default: i.ID == def, UUID: uuid(item.UUID), ParentUUID: uuid(item.ParentUUID),
		ReceivedUUID: uuid(item.ReceivedUUID), Flags: item.Flags, SendTransID: uint64(item.STransID), RecvTransID: uint64(item.RTransID),
	}
	if item.Otime.Sec != 0 {
		s.Created = timeText(item.Otime)
	}
	return s
}

// defaultSubvol is the id of the default subvolume.
func defaultSubvol(ctx context.Context, m *image) (disk.ObjectID, error) {
	sub, err := m.Default(ctx)
	if err != nil {
		return 0, err
	}
	return sub.ID(), nil
}

func newSubvolumeListCmd(a *app) *cobra.Command {
	var image imageFlags
	var snapshots, readOnly, asJSON bool
	cmd := &cobra.Command{
		Use:   "list IMAGE",
		Short: "List all subvolumes with their paths from the top level",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			infos, err := m.Subvolumes(ctx)
			if err != nil {
				return err
			}
			def, err := defaultSubvol(ctx, m)
			if err != nil {
				return err
			}
			list := []subvolJSON{}
			for i := range infos {
				info := &infos[i]
				if info.ID == disk.TreeFS || snapshots && info.Item.ParentUUID.IsZero() || readOnly && !info.ReadOnly() {
					continue
				}
				list = append(list, subvolToJSON(info, def))
			}
			if asJSON {
				return a.printJSON(list)
			}
			return printSubvolumes(a.out, list)
		},
	}
	image.register(cmd)
	cmd.Flags().BoolVarP(&snapshots, "snapshots", "s", false, "snapshots only")
	cmd.Flags().BoolVarP(&readOnly, "read-only", "r", false, "read-only ones only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printSubvolumes(out io.Writer, list []subvolJSON) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tGEN\tPARENT\tFLAGS\tUUID\tPATH")
	for _, s := range list {
		flags := "rw"
		if s.ReadOnly {
			flags = "ro"
		}
		if s.Default {
			flags += ",default"
		}
		uuid := "-"
		if s.UUID != nil {
			uuid = s.UUID.String()
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%s\n", s.ID, s.Generation, s.ParentID, flags, uuid, s.Path)
	}
	return w.Flush()
}

func newSubvolumeShowCmd(a *app) *cobra.Command {
	var image imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show IMAGE ID|PATH",
		Short: "Show one subvolume, named by its id or its path from the top level",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			s, err := showSubvolume(ctx, m, args[1])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(s)
			}
			s.print(a.out)
			return nil
		},
	}
	image.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showSubvolume(ctx context.Context, m *image, name string) (*subvolJSON, error) {
	sub, err := findSubvol(ctx, m, name)
	if err != nil {
		return nil, err
	}
	info, err := sub.Info(ctx)
	if err != nil {
		return nil, err
	}
	def, err := defaultSubvol(ctx, m)
	if err != nil {
		return nil, err
	}
	s := subvolToJSON(&info, def)
	all, err := m.Subvolumes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if !info.Item.UUID.IsZero() && all[i].Item.ParentUUID == info.Item.UUID {
			s.Snapshots = append(s.Snapshots, manifest.Escape(all[i].Path))
		}
	}
	return &s, nil
}

func (s *subvolJSON) print(w io.Writer) {
	uuid := func(u *disk.UUID) string {
		if u == nil {
			return "-"
		}
		return u.String()
	}
	orDash := func(t string) string {
		if t == "" {
			return "-"
		}
		return t
	}
	flags := "-"
	if s.ReadOnly {
		flags = "readonly"
	}
	fmt.Fprintf(w, "/%s\n", s.Path)
	for _, line := range []struct{ name, value string }{
		{"UUID:", uuid(s.UUID)}, {"Parent UUID:", uuid(s.ParentUUID)}, {"Received UUID:", uuid(s.ReceivedUUID)},
		{"Creation time:", orDash(s.Created)}, {"Subvolume ID:", fmt.Sprint(s.ID)}, {"Generation:", fmt.Sprint(s.Generation)},
		{"Gen at creation:", fmt.Sprint(s.OGeneration)}, {"Parent ID:", fmt.Sprint(s.ParentID)}, {"Flags:", flags},
		{"Default:", fmt.Sprint(s.Default)}, {"Send transid:", fmt.Sprint(s.SendTransID)}, {"Receive transid:", fmt.Sprint(s.RecvTransID)},
	} {
		fmt.Fprintf(w, "\t%-18s %s\n", line.name, line.value)
	}
	fmt.Fprintf(w, "\tSnapshot(s):\n")
	for _, p := range s.Snapshots {
		fmt.Fprintf(w, "\t\t%s\n", p)
	}
}

func newSubvolumeGetDefaultCmd(a *app) *cobra.Command {
	var image imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get-default IMAGE",
		Short: "Show the subvolume that a mount without options shows",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			sub, err := m.Default(ctx)
			if err != nil {
				return err
			}
			info, err := sub.Info(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(subvolToJSON(&info, info.ID))
			}
			path := manifest.Escape(info.Path)
			if info.ID == disk.TreeFS {
				path = "(FS_TREE)"
			}
			_, err = fmt.Fprintf(a.out, "ID %d gen %d parent %d path %s\n", uint64(info.ID), uint64(info.Item.Generation), uint64(info.ParentID), path)
			return err
		},
	}
	image.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
