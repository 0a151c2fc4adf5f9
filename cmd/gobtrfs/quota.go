package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/disk"
)

func newQuotaCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "quota VERB …", Short: "Turn quotas on or off, count anew"}
	var simple bool
	enable := newQuotaEdit(a, "enable IMAGE", "Turn quotas on and count what every subvolume has", 0,
		func(ctx context.Context, f *btrfs.FS, _ []string) error { return f.EnableQuota(ctx, simple) })
	enable.Flags().BoolVarP(&simple, "simple", "s", false, "charge what is written from now on to the subvolume that writes it")
	cmd.AddCommand(enable,
		newQuotaEdit(a, "disable IMAGE", "Turn quotas off; qgroups and limits are forgotten", 0,
			func(ctx context.Context, f *btrfs.FS, _ []string) error { return f.DisableQuota(ctx) }),
		newQuotaEdit(a, "rescan IMAGE", "Count everything anew", 0,
			func(ctx context.Context, f *btrfs.FS, _ []string) error { return f.RescanQuota(ctx) }))
	return cmd
}

func newQgroupCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "qgroup VERB …",
		Short: "Show and change quota groups",
		Long: `A qgroup is named LEVEL/ID, or ID for 0/ID, the qgroup of the subvolume ID. Its
numbers are the bytes of what its members refer to, and of what nobody else does.`,
	}
	var exclusive bool
	limit := newQuotaEdit(a, "limit IMAGE SIZE|none QGROUP", "Limit what a qgroup may refer to", 2,
		func(ctx context.Context, f *btrfs.FS, args []string) error {
			return limitQgroup(ctx, f, args, exclusive)
		})
	limit.Flags().BoolVarP(&exclusive, "exclusive", "e", false, "limit what it alone refers to")
	cmd.AddCommand(newQgroupShowCmd(a), limit,
		newQuotaEdit(a, "create IMAGE QGROUP", "Make a qgroup of a level above 0", 1, onQgroup((*btrfs.FS).CreateQgroup)),
		newQuotaEdit(a, "destroy IMAGE QGROUP", "Take away a qgroup without members", 1, onQgroup((*btrfs.FS).DestroyQgroup)),
		newQuotaEdit(a, "assign IMAGE MEMBER QGROUP", "Make a qgroup a member of one of a higher level", 2, onQgroups((*btrfs.FS).AssignQgroup)),
		newQuotaEdit(a, "remove IMAGE MEMBER QGROUP", "End what assign began", 2, onQgroups((*btrfs.FS).RemoveQgroup)))
	return cmd
}

// newQuotaEdit makes a verb that changes quotas in one transaction; n counts
// the arguments behind IMAGE.
func newQuotaEdit(a *app, use, short string, n int, change func(ctx context.Context, f *btrfs.FS, args []string) error) *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(n + 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return flags.change(ctx, a, args[0], func(m *image) error { return change(ctx, m.FS, args[1:]) })
		},
	}
	flags.register(cmd)
	return cmd
}

func onQgroup(change func(*btrfs.FS, context.Context, uint64) error) func(context.Context, *btrfs.FS, []string) error {
	return func(ctx context.Context, f *btrfs.FS, args []string) error {
		id, err := parseQgroup(args[0])
		if err != nil {
			return err
		}
		return change(f, ctx, id)
	}
}

func onQgroups(change func(*btrfs.FS, context.Context, uint64, uint64) error) func(context.Context, *btrfs.FS, []string) error {
	return func(ctx context.Context, f *btrfs.FS, args []string) error {
		member, err := parseQgroup(args[0])
		if err != nil {
			return err
		}
		of, err := parseQgroup(args[1])
		if err != nil {
			return err
		}
		return change(f, ctx, member, of)
	}
}

// parseQgroup reads LEVEL/ID or ID.
func parseQgroup(s string) (uint64, error) {
	level, id, ok := strings.Cut(s, "/")
	if !ok {
		level, id = "0", s
	}
	l, err1 := strconv.ParseUint(level, 10, 16)
	n, err2 := strconv.ParseUint(id, 10, 48)
	if err1 != nil || err2 != nil {
		return 0, usagef("%q is no qgroup: want LEVEL/ID", s)
	}
	return l<<48 | n, nil
}

// limitQgroup sets one of the two limits and keeps the other.
func limitQgroup(ctx context.Context, f *btrfs.FS, args []string, exclusive bool) error {
	id, err := parseQgroup(args[1])
	if err != nil {
		return err
	}
	var limit *uint64
	if args[0] != "none" {
		n, err := mkfsSize(args[0])
		if err != nil {
			return err
		}
		limit = &n
	}
	q, err := f.Quota(ctx)
	if err != nil {
		return err
	}
	var l btrfs.QgroupLimits
	if q != nil {
		for _, g := range q.Qgroups {
			if g.ID == id {
				l = g.Limits
			}
		}
	}
	if exclusive {
		l.Exclusive = limit
	} else {
		l.Referenced = limit
	}
	return f.LimitQgroup(ctx, id, l)
}

type qgroupJSON struct {
	ID            string   `json:"qgroupid"`
	Referenced    uint64   `json:"referenced"`
	Exclusive     uint64   `json:"exclusive"`
	MaxReferenced *uint64  `json:"max_referenced,omitempty"`
	MaxExclusive  *uint64  `json:"max_exclusive,omitempty"`
	Parents       []string `json:"parents,omitempty"`
	Children      []string `json:"children,omitempty"`
}

func newQgroupShowCmd(a *app) *cobra.Command {
	var image imageFlags
	var u units
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show IMAGE", Short: "Show what every qgroup uses, and its limits", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			q, err := m.Quota(ctx)
			if err != nil {
				return err
			}
			if q == nil {
				return errors.New("quotas are not enabled")
			}
			if asJSON {
				return a.printJSON(qgroupsToJSON(q))
			}
			if q.Inconsistent {
				fmt.Fprintln(a.errOut, "gobtrfs: the numbers are not right: 'gobtrfs quota rescan' counts anew")
			}
			return printQgroups(a, q, &u)
		},
	}
	image.register(cmd)
	u.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, sizes in bytes")
	return cmd
}

func qgroupNames(ids []uint64) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = disk.QgroupID(id)
	}
	return out
}

func qgroupsToJSON(q *btrfs.Quota) any {
	out := struct {
		Simple       bool         `json:"simple"`
		Inconsistent bool         `json:"inconsistent"`
		Qgroups      []qgroupJSON `json:"qgroups"`
	}{q.Simple, q.Inconsistent, []qgroupJSON{}}
	for _, g := range q.Qgroups {
		out.Qgroups = append(out.Qgroups, qgroupJSON{
			disk.QgroupID(g.ID), g.Referenced, g.Exclusive, g.Limits.Referenced, g.Limits.Exclusive, qgroupNames(g.Parents), qgroupNames(g.Children),
		})
	}
	return out
}

func printQgroups(a *app, q *btrfs.Quota, u *units) error {
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "Qgroupid\tReferenced\tExclusive\tMax referenced\tMax exclusive\tParents")
	size := func(n *uint64) string {
		if n == nil {
			return "none"
		}
		return u.size(*n)
	}
	for _, g := range q.Qgroups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", disk.QgroupID(g.ID), u.size(g.Referenced), u.size(g.Exclusive),
			size(g.Limits.Referenced), size(g.Limits.Exclusive), strings.Join(qgroupNames(g.Parents), ","))
	}
	return w.Flush()
}
