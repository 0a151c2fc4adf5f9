package mkfs

import (
	"encoding/binary"
	"io"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// magics are the marks by which what is on a device is known.
var magics = []struct {
	at   int64
	mark string
	what string
}{
	{disk.SuperInfoOffset + 64, "_BHRfS_M", "a btrfs filesystem"},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 filesystem"},
	{0, "XFSB", "an XFS filesystem"},
	{0x400, "\x10\x20\xf5\xf2", "an F2FS filesystem"},
	{0, "hsqs", "a squashfs"},
	{0x400, "\xe2\xe1\xf5\xe0", "an erofs"},
	{3, "NTFS    ", "an NTFS filesystem"},
	{3, "EXFAT   ", "an exFAT filesystem"},
	{0x52, "FAT32   ", "a FAT filesystem"},
	{0x36, "FAT1", "a FAT filesystem"},
	{0x8001, "CD001", "an ISO 9660 filesystem"},
	{0xff6, "SWAPSPACE2", "swap space"},
	{0, "LUKS\xba\xbe", "an encrypted volume"},
	{0x218, "LVM2 001", "an LVM physical volume"},
	{0x1000, "\xfc\x4e\x2b\xa9", "a RAID member"},
	{0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcache device"},
	{512, "EFI PART", "a partition table (GPT)"},
}

// signature says what a device holds, "" if nothing that is known.
func signature(d blockdev.Device) (string, error) {
	head := make([]byte, min(d.Size(), disk.SuperInfoOffset+disk.SuperInfoSize))
	if _, err := d.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	for _, m := range magics {
		if end := m.at + int64(len(m.mark)); end <= int64(len(head)) && string(head[m.at:end]) == m.mark {
			return m.what, nil
		}
	}
	if len(head) >= 512 && binary.LittleEndian.Uint16(head[510:]) == 0xaa55 && hasPartition(head) {
		return "a partition table (MBR)", nil
	}
	return "", nil
}

// hasPartition says whether an MBR has an entry that is in use.
func hasPartition(mbr []byte) bool {
	for i := range 4 {
		e := mbr[446+16*i : 462+16*i]
		if e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) != 0 {
			return true
		}
	}
	return false
}
