package blockdev

// Partition is one entry of a disk's partition table.
type Partition struct {
	Number int    // from 1, as the system counts them
	Start  int64  // bytes from the start of the disk
	Size   int64  // bytes
	Table  string // "gpt" or "mbr"
	Type   string // type GUID, or the MBR type byte as "0x83"
	GUID   string // the partition's own GUID, GPT only
	Name   string // GPT only
}
