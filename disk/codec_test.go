package disk

import (
	"bytes"
	"testing"
)

// encoders decode an item and encode it again; nil where no encoder exists.
var encoders = map[KeyType]func(k Key, b []byte) ([]byte, error){
	KeyInodeItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseInodeItem(b)
		return v.Append(nil), err
	},
	KeyInodeRef: func(_ Key, b []byte) (out []byte, err error) {
		for len(b) > 0 && err == nil {
			var r InodeRef
			r, b, err = ParseInodeRef(b)
			out = r.Append(out)
		}
		return out, err
	},
	KeyInodeExtref: func(_ Key, b []byte) (out []byte, err error) {
		for len(b) > 0 && err == nil {
			var r InodeExtref
			r, b, err = ParseInodeExtref(b)
			out = r.Append(out)
		}
		return out, err
	},
	KeyDirItem:   encodeDir,
	KeyDirIndex:  encodeDir,
	KeyXattrItem: encodeDir,
	KeyExtentData: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseFileExtent(b)
		return v.Append(nil), err
	},
	KeyRootItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseRootItem(b)
		return v.Append(nil), err
	},
	KeyRootRef:      encodeRootRef,
	KeyRootBackref:  encodeRootRef,
	KeyExtentItem:   encodeExtent,
	KeyMetadataItem: encodeExtent,
	KeyTreeBlockRef: encodeRef, KeySharedBlockRef: encodeRef, KeySharedDataRef: encodeRef, KeyExtentDataRef: encodeRef,
	KeyBlockGroupItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseBlockGroupItem(b)
		return v.Append(nil), err
	},
	KeyFreeSpaceInfo: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseFreeSpaceInfo(b)
		return v.Append(nil), err
	},
	KeyDevExtent: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseDevExtent(b)
		return v.Append(nil), err
	},
	KeyDevItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseDevItem(b)
		return v.Append(nil), err
	},
	KeyChunkItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseChunk(b)
		return v.Append(nil), err
	},
	KeyQgroupStatus: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseQgroupStatus(b)
		return v.Append(nil), err
	},
	KeyQgroupInfo: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseQgroupInfo(b)
		return v.Append(nil), err
	},
	KeyQgroupLimit: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseQgroupLimit(b)
		return v.Append(nil), err
	},
	KeyPersistentItem: func(_ Key, b []byte) ([]byte, error) {
		v, err := ParseDevStats(b)
		return v.Append(nil), err
	},
}

func encodeDir(_ Key, b []byte) (out []byte, err error) {
	for len(b) > 0 && err == nil {
		var d DirItem
		d, b, err = ParseDirItem(b)
		out = d.Append(out)
	}
	return out, err
}

func encodeRootRef(_ Key, b []byte) ([]byte, error) {
	v, err := ParseRootRef(b)
	return v.Append(nil), err
}

func encodeRef(k Key, b []byte) ([]byte, error) {
	v, err := ParseKeyedRef(k, b)
	return v.AppendKeyed(nil), err
}

func encodeExtent(k Key, b []byte) ([]byte, error) {
	e, err := ParseExtentItem(b)
	if err != nil {
		return nil, err
	}
	out := e.Append(nil)
	if k.Type == KeyExtentItem && e.Flags&ExtentFlagTreeBlock != 0 {
		info, err := ParseTreeBlockInfo(b[extentItemSize:])
		if err != nil {
			return nil, err
		}
		out = info.Append(out)
	}
	rest, err := InlineRefs(k, b)
	for len(rest) > 0 && err == nil {
		var r ExtentRef
		var size int
		if r, size, err = ParseInlineRef(rest); err == nil {
			out, rest = r.AppendInline(out), rest[size:]
		}
	}
	return out, err
}

// What Linux wrote, decoded and encoded again, is the same bytes.
func TestKernelItemsComeBack(t *testing.T) {
	seen := map[KeyType]int{}
	for _, it := range corpusItems(t) {
		encode := encoders[it.key.Type]
		if encode == nil {
			continue
		}
		seen[it.key.Type]++
		want := bytes.Clone(it.data)
		if it.key.Type == KeyInodeItem {
			// Linux leaves whatever was there in the four reserved words of
			// inodes in log trees.
			clear(want[80:112])
		}
		out, err := encode(it.key, it.data)
		if err != nil || !bytes.Equal(out, want) {
			t.Errorf("%s, %v: error %v\n%x came back as\n%x", it.image.name, it.key, err, want, out)
		}
	}
	for typ := range encoders {
		if seen[typ] == 0 && typ != KeyTreeBlockRef && typ != KeySharedBlockRef {
			t.Errorf("no item of type %v in testdata", typ)
		}
	}
}

func TestKernelSuperblocksComeBack(t *testing.T) {
	for _, m := range corpus(t) {
		// Behind the system chunks Linux leaves what stood there before.
		want := bytes.Clone(m.raw)
		clear(want[sbSysArray+len(m.super.SysChunkArray) : sbSysArray+SystemArrayMax])
		out, err := m.super.Encode()
		if err != nil || !bytes.Equal(out, want) {
			t.Errorf("%s: error %v, same bytes %v", m.name, err, bytes.Equal(out, want))
		}
		chunks, err := m.super.SystemChunks()
		if err != nil || len(chunks) == 0 {
			t.Errorf("%s: %d system chunks, error %v", m.name, len(chunks), err)
		}
	}
}

// The hashes in the keys are those that Linux computed.
func TestKernelHashes(t *testing.T) {
	names, extrefs, refs := 0, 0, 0
	for _, it := range corpusItems(t) {
		switch it.key.Type {
		case KeyDirItem, KeyXattrItem:
			d, _, err := ParseDirItem(it.data)
			if err != nil || uint64(NameHash(d.Name)) != it.key.Offset {
				t.Errorf("%v: name %q, error %v", it.key, d.Name, err)
			}
			names++
		case KeyInodeExtref:
			r, _, err := ParseInodeExtref(it.data)
			if err != nil || ExtrefHash(r.Parent, r.Name) != it.key.Offset {
				t.Errorf("%v: name %q, error %v", it.key, r.Name, err)
			}
			extrefs++
		case KeyExtentDataRef:
			r, err := ParseKeyedRef(it.key, it.data)
			if err != nil || DataRefHash(r.Root, r.ObjectID, r.Offset) != it.key.Offset {
				t.Errorf("%v: %+v, error %v", it.key, r, err)
			}
			refs++
		}
	}
	if names < 50 || extrefs < 5 || refs < 5 {
		t.Errorf("%d names, %d extrefs, %d data references", names, extrefs, refs)
	}
}
