package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/volume"
	"gobtrfs/report"
)

func newInspectCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect VERB …",
		Short: "Look at the bytes: superblocks, trees, chunks",
	}
	cmd.AddCommand(newInspectSuperCmd(a), newInspectTreeCmd(a), newInspectChunksCmd(a))
	return cmd
}

type superCopyJSON struct {
	Mirror int         `json:"mirror"`
	Offset uint64      `json:"offset"`
	Error  string      `json:"error,omitempty"`
	Super  disk.Fields `json:"super,omitempty"`
}

func newInspectSuperCmd(a *app) *cobra.Command {
	var from imageFlags
	var all, asJSON bool
	var mirror int
	cmd := &cobra.Command{
		Use:   "super IMAGE",
		Short: "Print the superblock: the first copy, one of the others, or all",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m := &image{}
			defer m.Close()
			if err := from.openDevices(cmd.Context(), m, args[0]); err != nil {
				return err
			}
			return printSupers(a, m, mirror, all, asJSON)
		},
	}
	from.register(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all copies")
	cmd.Flags().IntVarP(&mirror, "super", "s", 0, "the copy at 64 MiB (1) or 256 GiB (2)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printSupers(a *app, m *image, mirror int, all, asJSON bool) error {
	var list []superCopyJSON
	var errs []error
	found := false
	for _, c := range volume.ReadSuperCopies(m.devs[0]) {
		if !all && c.Mirror != mirror {
			continue
		}
		found = true
		out := superCopyJSON{Mirror: c.Mirror, Offset: c.Offset}
		if c.Err != nil {
			out.Error = c.Err.Error()
			errs = append(errs, fmt.Errorf("superblock copy %d at %d: %w", c.Mirror, c.Offset, c.Err))
		} else {
			out.Super = disk.SuperFields(c.Super)
		}
		list = append(list, out)
		if asJSON {
			continue
		}
		fmt.Fprintf(a.out, "superblock copy %d at %d of %s\n", c.Mirror, c.Offset, m.devs[0].Name())
		if c.Err != nil {
			fmt.Fprintf(a.out, "invalid: %v\n", c.Err)
		} else if err := disk.DumpSuper(a.out, c.Super); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("%s has no superblock copy %d", m.devs[0].Name(), mirror)
	}
	if asJSON {
		errs = append(errs, a.printJSON(list))
	}
	return errors.Join(errs...)
}

func newInspectTreeCmd(a *app) *cobra.Command {
	var image imageFlags
	var trees []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tree IMAGE",
		Short: "Print every item of every tree, or of the trees named with --tree",
		Long: `tree prints the tree blocks of the filesystem with all their items. A tree is
named by its id, or as one of: root, chunk, extent, dev, fs, csum, quota, uuid,
free-space, block-group, raid-stripe. With --json each line is a tree block.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			var ids []disk.ObjectID
			if len(trees) == 0 {
				if ids, err = report.TreeIDs(ctx, m.FS); err != nil {
					return err
				}
			}
			for _, name := range trees {
				id, err := parseTreeName(name)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			var errs []error
			for _, id := range ids {
				errs = append(errs, dumpTree(ctx, a, m, id, asJSON))
			}
			return errors.Join(errs...)
		},
	}
	image.register(cmd)
	cmd.Flags().StringArrayVar(&trees, "tree", nil, "print tree `N` only (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, for each tree block")
	return cmd
}

var treeNames = map[string]disk.ObjectID{
	"root": disk.TreeRoot, "chunk": disk.TreeChunk, "extent": disk.TreeExtent, "dev": disk.TreeDev, "device": disk.TreeDev, "fs": disk.TreeFS,
	"csum": disk.TreeCsum, "checksum": disk.TreeCsum, "quota": disk.TreeQuota, "uuid": disk.TreeUUID, "free-space": disk.TreeFreeSpace,
	"block-group": disk.TreeBlockGroup, "raid-stripe": disk.TreeRaidStripe,
}

func parseTreeName(name string) (disk.ObjectID, error) {
	if id, ok := treeNames[strings.ToLower(name)]; ok {
		return id, nil
	}
	// A negative number is one of the ids counted from the end.
	if n, err := strconv.ParseInt(name, 0, 64); err == nil {
		return disk.ObjectID(n), nil
	}
	if n, err := strconv.ParseUint(name, 0, 64); err == nil {
		return disk.ObjectID(n), nil
	}
	return 0, usagef("%q names no tree", name)
}

type nodeJSON struct {
	Tree   uint64        `json:"tree"`
	Header disk.Fields   `json:"header"`
	Slots  []disk.Fields `json:"slots"`
}

func dumpTree(ctx context.Context, a *app, m *image, id disk.ObjectID, asJSON bool) error {
	tree, _, err := m.Store().Tree(ctx, id)
	if err != nil {
		return fmt.Errorf("tree %d: %w", uint64(id), err)
	}
	root := tree.Root()
	if !asJSON {
		fmt.Fprintf(a.out, "tree %v root %d level %d generation %d\n", id, uint64(root.Bytenr), root.Level, root.Generation)
	}
	return dumpNodes(ctx, a.out, m, root, asJSON)
}

func dumpNodes(ctx context.Context, w io.Writer, m *image, root btree.Root, asJSON bool) error {
	g := m.Super().Geometry()
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	var errs []error
	for n, err := range report.Nodes(ctx, m.FS, root) {
		switch {
		case err != nil:
			errs = append(errs, err)
		case asJSON:
			j := nodeJSON{Tree: uint64(root.ID), Header: disk.NodeFields(n)}
			for i := range n.NrItems() {
				// What does not decode says so in its own fields.
				f, _ := disk.SlotFields(n, i, g)
				j.Slots = append(j.Slots, f)
			}
			if err := e.Encode(j); err != nil {
				return err
			}
		default:
			if err := disk.DumpNode(w, n, g); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

type chunkJSON struct {
	Logical    uint64       `json:"logical"`
	Length     uint64       `json:"length"`
	Type       string       `json:"type"`
	StripeLen  uint64       `json:"stripe_len"`
	SubStripes uint16       `json:"sub_stripes"`
	Stripes    []stripeJSON `json:"stripes"`
}

type stripeJSON struct {
	DevID    uint64 `json:"devid"`
	Physical uint64 `json:"physical"`
	Length   uint64 `json:"length"`
}

func newInspectChunksCmd(a *app) *cobra.Command {
	var image imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "chunks IMAGE",
		Short: "Print the chunk map: where logical ranges stand on devices",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := image.open(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			list := []chunkJSON{}
			for _, c := range m.Store().Volume().Chunks() {
				j := chunkJSON{uint64(c.Logical), c.Length, c.Type.String(), c.StripeLen, c.SubStripes, []stripeJSON{}}
				for _, s := range c.Stripes {
					j.Stripes = append(j.Stripes, stripeJSON{uint64(s.DevID), s.Offset, c.StripeLength()})
				}
				list = append(list, j)
			}
			if asJSON {
				return a.printJSON(list)
			}
			for _, c := range list {
				fmt.Fprintf(a.out, "chunk %d length %d %s\n", c.Logical, c.Length, c.Type)
				for i, s := range c.Stripes {
					fmt.Fprintf(a.out, "\tstripe %d device %d at %d length %d\n", i, s.DevID, s.Physical, s.Length)
				}
			}
			return nil
		},
	}
	image.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
