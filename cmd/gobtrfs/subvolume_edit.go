package main

import (
	"context"
	"path"

	"github.com/spf13/pflag"

	"gobtrfs"
)

// subvolumeEdits are the verbs behind "subvolume" that change a filesystem.
var subvolumeEdits = []string{"create", "snapshot", "delete", "set-default", "read-only"}

var subvolumeCreateEdit = edit{
	use:   "PATH…",
	short: "Make empty subvolumes",
	long: `create makes empty subvolumes, which belong to user and group 0. They inherit
compression from the top of the subvolume that they hang in.`,
	least: 1, most: -1,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			for _, name := range args {
				if _, err := t.CreateSubvolume(ctx, name, btrfs.Attr{Perm: 0o755}); err != nil {
					return err
				}
			}
			return nil
		}
	},
}

var subvolumeSnapshotEdit = edit{
	use:   "FROM TO",
	short: "Make a snapshot of a subvolume",
	long: `snapshot makes a subvolume TO that shows what subvolume FROM shows now, or
one of FROM's name in the directory TO. Subvolumes in FROM are not taken along.
What was done before, by a batch, is made durable first.`,
	least: 2, most: 2,
	prepare: func(f *pflag.FlagSet) editFunc {
		readOnly := f.BoolP("read-only", "r", false, "the snapshot cannot be changed")
		return func(ctx context.Context, t *editTarget, args []string) error {
			_, err := t.Snapshot(ctx, args[0], t.inDir(ctx, args[1], path.Clean(args[0])), *readOnly)
			return err
		}
	},
}

var subvolumeDeleteEdit = edit{
	use:   "PATH…",
	short: "Delete subvolumes with everything in them",
	long: `delete removes subvolumes in which there are no others; the default subvolume
stays. It ends when their space was given back.`,
	least: 1, most: -1,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			for _, name := range args {
				if err := t.DeleteSubvolume(ctx, name); err != nil {
					return err
				}
			}
			return nil
		}
	},
}

var subvolumeSetDefaultEdit = edit{
	use:   "PATH",
	short: "Set the subvolume that a mount without options shows",
	long:  `set-default makes a subvolume the one that is mounted when none is named.`,
	least: 1, most: 1,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			return t.SetDefault(ctx, args[0])
		}
	},
}

var subvolumeReadOnlyEdit = edit{
	use:   "PATH true|false",
	short: "Make a subvolume read-only, or writable again",
	long: `read-only sets or clears what "btrfs property set PATH ro" does. A subvolume that
was received forgets that when it becomes writable.`,
	least: 2, most: 2,
	prepare: func(*pflag.FlagSet) editFunc {
		return func(ctx context.Context, t *editTarget, args []string) error {
			switch args[1] {
			case "true", "false":
				return t.SetReadOnly(ctx, args[0], args[1] == "true")
			}
			return usagef("%q is neither true nor false", args[1])
		}
	},
}
