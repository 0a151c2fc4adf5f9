package fstree

import (
	"context"

	"gobtrfs/disk"
	"gobtrfs/internal/compress"
)

// propCompression is the property, an attribute, that says how a file, or what
// is made in a directory, is compressed.
const propCompression = "btrfs.compression"

// encoder is what the contents of a file are to be compressed with, nil if
// they are not. force says that nobody shall ask before whether that is likely
// to pay; keep that the file is not to be marked when it did not, because its
// property says that it is to be tried. The rules are those of Linux (inode_need_compress, 6.18): files
// without copy-on-write or checksums never, then the options' force, then the
// inode's flags and its property, then the option.
//
// REQUIRES: the writer.
func (f *fileEdit) encoder(ctx context.Context) (enc *compress.Encoder, force, keep bool, err error) {
	o := &f.w.opts
	flags := f.item.Flags
	switch {
	case flags&(disk.InodeNoDataCow|disk.InodeNoDataSum) != 0:
		return nil, false, false, nil
	case o.CompressForce:
	case flags&disk.InodeNoCompress != 0:
		return nil, false, false, nil
	case o.Compress.Algorithm == disk.CompressNone && flags&disk.InodeCompress == 0:
		return nil, false, false, nil
	}
	spec := o.Compress
	if flags&disk.InodeCompress != 0 {
		prop, err := f.property(ctx)
		if err != nil {
			return nil, false, false, err
		}
		keep = prop != disk.CompressNone
		switch {
		case prop != disk.CompressNone && prop != spec.Algorithm:
			spec = compress.Spec{Algorithm: prop}
		case spec.Algorithm == disk.CompressNone:
			spec.Algorithm = disk.CompressZlib
		}
	}
	enc, err = f.w.codec(spec)
	return enc, o.CompressForce, keep || o.CompressForce, err
}

// property is the algorithm that the file's property names.
func (f *fileEdit) property(ctx context.Context) (disk.Compression, error) {
	name, err := f.inheritedCompression(ctx, f.ino)
	if err != nil || name == "" {
		return disk.CompressNone, err
	}
	spec, err := compress.ParseSpec(name)
	return spec.Algorithm, err
}

// codec is the encoder for a spec, of which there is one.
func (w *Writer) codec(s compress.Spec) (*compress.Encoder, error) {
	w.codecsMu.Lock()
	defer w.codecsMu.Unlock()
	if e := w.codecs[s]; e != nil {
		return e, nil
	}
	e, err := compress.NewEncoder(s, int(w.tx.SectorSize()))
	if err == nil {
		w.codecs[s] = e
	}
	return e, err
}

// needCodec enters in the superblock what an old kernel could not read.
//
// REQUIRES: the writer.
func (w *Writer) needCodec(ctx context.Context, c disk.Compression) error {
	flag := uint64(0)
	switch c {
	case disk.CompressLZO:
		flag = disk.IncompatCompressLZO
	case disk.CompressZstd:
		flag = disk.IncompatCompressZstd
	}
	if w.hasCodecs&flag == flag {
		return nil
	}
	w.hasCodecs |= flag
	return w.tx.NeedIncompat(ctx, flag)
}
