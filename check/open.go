package check

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/volume"
)

// open assembles the filesystem. When that fails, what is wrong is a finding,
// and other ways are tried to get at what can still be read: other copies of the
// superblock, then leaving out the parts of the chunk tree that are damaged.
// vol is nil when there is no way.
func open(ctx context.Context, devs []blockdev.Device, find *collector) (vol *volume.Volume, damaged bool, err error) {
	vol, err = volume.Open(ctx, devs, volume.Options{Degraded: true})
	if err == nil || ctx.Err() != nil {
		return vol, false, ctx.Err()
	}
	find.add(openFinding(err))
	var unsupported *volume.UnsupportedError
	if errors.As(err, &unsupported) {
		return nil, true, nil
	}
	for m := 1; m < disk.SuperMirrorMax; m++ {
		vol, err = volume.Open(ctx, devs, volume.Options{Degraded: true, SuperMirror: m})
		if err == nil {
			find.add(Finding{Code: CodeSuper, Severity: Warning, Place: Place{Physical: disk.SuperOffset(m)}, What: fmt.Sprintf("the rest was checked with copy %d of the superblock", m),
				Means: "Linux reads only the first copy when it mounts"})
			return vol, true, nil
		}
	}
	vol, err = volume.Open(ctx, devs, volume.Options{Degraded: true, Salvage: true})
	if err != nil {
		return nil, true, ctx.Err()
	}
	for _, e := range vol.Damage() {
		find.add(openFinding(e))
	}
	return vol, true, nil
}

func openFinding(err error) Finding {
	f := Finding{Code: CodeOpen, What: err.Error()}
	var c *volume.CorruptError
	if errors.As(err, &c) {
		f.Place = Place{Dev: c.Dev, DevName: c.DevName, Physical: c.Physical, Logical: c.Logical, Mirror: c.Mirror, Tree: c.Tree}
		if c.Key != (disk.Key{}) {
			k := c.Key
			f.Place.Key = &k
		}
		if c.Tree == disk.TreeChunk {
			f.Code = CodeChunk
		}
	}
	return f
}

// adviseBackups names the backup roots that can be read, when the root tree
// cannot.
func (c *checker) adviseBackups() {
	at, ok := c.forests[0].find(int(c.sb.RootLevel), c.sb.Root)
	if ok && !at.bad {
		return
	}
	var devs []blockdev.Device
	for _, d := range c.vol.Devices() {
		if !d.Missing {
			devs = append(devs, d.Device)
		}
	}
	for n := 1; n <= disk.NumBackupRoots; n++ {
		vol, err := volume.Open(c.ctx, devs, volume.Options{Degraded: true, BackupRoot: n})
		if err != nil {
			continue
		}
		sb := vol.Super()
		if sb.Root == c.sb.Root {
			continue
		}
		b := make([]byte, sb.NodeSize)
		err = vol.ReadNode(c.ctx, sb.Root, b, func(n disk.Node) error {
			if n.Generation() != sb.Generation || n.Owner() != disk.TreeRoot || n.Level() != int(sb.RootLevel) {
				return errors.New("not the block that the backup names")
			}
			return nil
		})
		if err == nil {
			c.find.add(Finding{Code: CodeBackupRoot, Place: Place{Tree: disk.TreeRoot, Logical: sb.Root},
				What: fmt.Sprintf("the root tree of generation %d, which the superblock keeps as a backup, can be read; the superblock is of generation %d", uint64(sb.Generation), uint64(c.sb.Generation))})
		}
	}
}
