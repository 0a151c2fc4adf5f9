package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// maxDamage is how many defects of the chunk tree are gone past.
const maxDamage = 64

// Damage is what Open found wrong with the system chunks or the chunk tree and
// left out, with Options.Salvage. Empty means that nothing was.
func (v *Volume) Damage() []error { return v.damage }

// tolerate notes an error and says whether to go on without what it is about.
func (v *Volume) tolerate(err error) bool {
	if !v.salvage || len(v.damage) >= maxDamage {
		return false
	}
	v.damage = append(v.damage, err)
	return true
}

// salvageChunkTree reads what can be read of a chunk tree that is damaged: that
// of the newest backup root whose own is whole, else the current one without the
// nodes and items that are bad.
func (a *assembly) salvageChunkTree(ctx context.Context, cause error) (*chunkTree, error) {
	v, sb := a.v, a.sb
	if !v.tolerate(cause) {
		return nil, cause
	}
	backups := slices.Clone(sb.BackupRoots[:])
	sortBackups(backups)
	for _, b := range backups {
		if b.ChunkRoot == 0 || b.ChunkRoot == sb.ChunkRoot || b.ChunkRootGen > sb.Generation {
			continue
		}
		if t, err := walkChunkTree(ctx, v, b.ChunkRoot, int(b.ChunkRootLevel), b.ChunkRootGen); err == nil {
			v.notice(Notice{Kind: NoticeChunkRoot, Text: fmt.Sprintf("used the chunk root of generation %d, which the superblock keeps as a backup", uint64(b.ChunkRootGen))})
			return t, nil
		}
	}
	t := &chunkTree{}
	if err := a.salvageNodes(ctx, t); err != nil {
		return nil, err
	}
	if len(t.devices) == 0 {
		for _, m := range a.sortedGiven() {
			if sameFilesystem(sb, m.sb) {
				t.devices = append(t.devices, m.sb.DevItem)
			}
		}
	}
	return t, nil
}

// salvageNodes collects the items of the current chunk tree that are good. It
// ends as walkChunkTree does: levels fall, and no address is read twice.
func (a *assembly) salvageNodes(ctx context.Context, t *chunkTree) error {
	v, sb := a.v, a.sb
	seen := make(map[disk.Logical]bool)
	buf := disk.Node(make([]byte, sb.NodeSize))
	var last disk.Key
	stack := []visit{{addr: sb.ChunkRoot, level: int(sb.ChunkRootLevel)}}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[at.addr] || at.level >= disk.MaxLevel || at.level < 0 {
			continue
		}
		seen[at.addr] = true
		err := v.ReadNode(ctx, at.addr, buf, func(n disk.Node) error {
			if n.Level() != at.level {
				return fmt.Errorf("level %d, want %d", n.Level(), at.level)
			}
			return n.ValidateLayout()
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if !v.tolerate(ofChunkTree(err)) {
				return err
			}
			continue
		}
		for i := range buf.NrItems() {
			if at.level > 0 {
				i = buf.NrItems() - 1 - i // the first child is to be on top of the stack
				stack = append(stack, visit{addr: buf.BlockPtr(i), level: at.level - 1})
				continue
			}
			k := buf.Key(i)
			if !last.Less(k) {
				continue
			}
			last = k
			if err := t.addValid(k, buf.ItemData(i), sb.Geometry()); err != nil {
				err = &CorruptError{Logical: at.addr, Tree: disk.TreeChunk, Key: k, What: "chunk tree item", Err: err}
				if !v.tolerate(err) {
					return err
				}
			}
		}
	}
	return nil
}

// addValid is add for an item of a leaf that was not checked.
func (t *chunkTree) addValid(k disk.Key, data []byte, g disk.Geometry) error {
	if k.Type == disk.KeyChunkItem {
		c, err := disk.ParseChunk(data)
		if err != nil {
			return err
		}
		m := disk.ChunkMapping{Logical: disk.Logical(k.Offset), Chunk: c}
		if err := m.Validate(g); err != nil {
			return err
		}
	}
	return t.add(k, data)
}

// salvageChunks publishes the chunks that do not contradict the devices or each
// other. cause is why not all could be.
func (v *Volume) salvageChunks(list []disk.ChunkMapping, cause error) error {
	for {
		var e *CorruptError
		if !errors.As(cause, &e) || e.Key.Type != disk.KeyChunkItem || !v.tolerate(cause) {
			return cause
		}
		n := len(list)
		list = slices.DeleteFunc(list, func(c disk.ChunkMapping) bool { return c.Logical == e.Logical })
		if len(list) == n {
			return cause
		}
		if cause = v.SetChunks(list); cause == nil {
			return nil
		}
	}
}
