package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

var chownEdit = edit{
	use:   "UID:GID PATH…",
	short: "Set owner and group",
	long:  `chown sets owner and group, as numbers; either may be left out: "5:" or ":6".`,
	least: 2, most: -1,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			u, g, _ := strings.Cut(args[0], ":")
			uid, err := ownerID(u)
			if err != nil {
				return err
			}
			gid, err := ownerID(g)
			if err != nil {
				return err
			}
			if uid == nil && gid == nil {
				return usagef("%q names neither owner nor group", args[0])
			}
			for _, name := range args[1:] {
				if err := t.Chown(ctx, name, uid, gid); err != nil {
					return err
				}
			}
			return nil
		}
	},
}

func ownerID(s string) (*uint32, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil, usagef("%q is no number of a user or group", s)
	}
	id := uint32(n)
	return &id, nil
}
