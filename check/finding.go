package check

import (
	"fmt"
	"strings"

	"gobtrfs/disk"
)

// Severity says how bad a finding is.
type Severity uint8

// Severities. Only errors make a filesystem damaged.
const (
	unset   Severity = iota // the code's own
	Note                    // worth knowing, nothing is wrong
	Warning                 // not as it should be; no data is at risk and nothing fails because of it
	Error                   // damage
)

func (s Severity) String() string {
	switch s {
	case Note:
		return "note"
	case Warning:
		return "warning"
	}
	return "error"
}

// MarshalText is String, for JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Code names a kind of finding. Codes are stable: scripts may rely on them.
type Code string

// Place is where a finding is. What is not known or does not apply is zero.
type Place struct {
	Dev      disk.DevID    `json:"dev,omitempty"`
	DevName  string        `json:"dev_name,omitempty"`
	Physical uint64        `json:"physical,omitempty"` // bytes on the device
	Logical  disk.Logical  `json:"logical,omitempty"`
	Mirror   int           `json:"mirror,omitempty"`
	Tree     disk.ObjectID `json:"tree,omitempty"`
	Key      *disk.Key     `json:"key,omitempty"`
	Slot     int           `json:"slot,omitempty"`
	Inode    uint64        `json:"inode,omitempty"`
	Path     string        `json:"path,omitempty"` // in the tree's subvolume
}

// keyOf is k for a Place. Its argument is a copy, so that keys that are only
// looked at need no memory of their own.
func keyOf(k disk.Key) *disk.Key { return &k }

func (p *Place) String() string {
	var s []string
	if p.Path != "" {
		s = append(s, fmt.Sprintf("%q", p.Path))
	}
	if p.Tree != 0 {
		s = append(s, "tree "+p.Tree.String())
	}
	if p.Inode != 0 {
		s = append(s, fmt.Sprintf("inode %d", p.Inode))
	}
	if p.Key != nil {
		s = append(s, "key "+p.Key.String())
	}
	if p.Logical != 0 {
		s = append(s, fmt.Sprintf("logical %d", uint64(p.Logical)))
	}
	if p.Mirror != 0 {
		s = append(s, fmt.Sprintf("mirror %d", p.Mirror))
	}
	if p.Dev != 0 {
		s = append(s, fmt.Sprintf("device %d", uint64(p.Dev)))
	}
	if p.DevName != "" {
		s = append(s, p.DevName)
	}
	if p.Physical != 0 {
		s = append(s, fmt.Sprintf("physical %d", p.Physical))
	}
	return strings.Join(s, ", ")
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Place    Place    `json:"place"`
	// What says in words what is wrong, Expected and Found the values, where
	// there are two to compare.
	What     string `json:"what"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	// Means is what follows for the user.
	Means      string `json:"means"`
	Repairable bool   `json:"repairable"`
}

func (f *Finding) String() string {
	return fmt.Sprintf("%v[%s]: %s", f.Severity, f.Code, f.Detail())
}

// Detail is the finding without its code and severity.
func (f *Finding) Detail() string {
	var b strings.Builder
	b.WriteString(f.What)
	if f.Expected != "" || f.Found != "" {
		fmt.Fprintf(&b, ": expected %s, found %s", orNothing(f.Expected), orNothing(f.Found))
	}
	if p := f.Place.String(); p != "" {
		fmt.Fprintf(&b, " (%s)", p)
	}
	return b.String()
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// What a kind of finding means, in the words of meanings.
const (
	meansNoWrite   = "do not mount it for writing"
	meansLost      = "what is below it cannot be read; back up what can be read and " + meansNoWrite
	meansBadCopy   = "another copy is good, so nothing is lost; scrub --repair rewrites the bad one"
	meansSpace     = "the free space is not what the filesystem thinks: writing could overwrite data in use; " + meansNoWrite
	meansLeak      = "space is leaked; no data is at risk"
	meansRefs      = "deleting or copying files can free space that is still in use; " + meansNoWrite
	meansFile      = "this file or directory does not behave as it should; others are not affected"
	meansFileData  = "this file's contents cannot be trusted or read"
	meansName      = "a file cannot be reached, or cannot be removed, by one of its names"
	meansStructure = "Linux refuses this tree block or may misread it; " + meansNoWrite
	meansDevices   = "space on the devices could be used twice; " + meansNoWrite
	meansOpen      = "the filesystem cannot be opened"
	meansNumbers   = "a stored number is wrong; no data is at risk"
	meansSubvol    = "a subvolume cannot be reached, removed or snapshotted as it should"
	meansHarmless  = "harmless; Linux corrects or ignores it"
)

type codeInfo struct {
	severity   Severity
	means      string
	repairable bool
}

// Codes of findings.
const (
	CodeOpen            Code = "open"
	CodeSuper           Code = "superblock"
	CodeSuperCopy       Code = "superblock-copy"
	CodeDeviceSet       Code = "device-set"
	CodeDeviceMissing   Code = "device-missing"
	CodeDeviceItem      Code = "device-item"
	CodeDeviceBytes     Code = "device-bytes-used"
	CodeDevExtent       Code = "device-extent"
	CodeChunk           Code = "chunk"
	CodeSystemArray     Code = "system-chunk-array"
	CodeBlockGroup      Code = "block-group"
	CodeBlockGroupUsed  Code = "block-group-used"
	CodeBytesUsed       Code = "bytes-used"
	CodeBackupRoot      Code = "backup-root"
	CodeNodeCopy        Code = "node-copy"
	CodeNodeUnreadable  Code = "node-unreadable"
	CodeNodeHeader      Code = "node-header"
	CodeNodeGeneration  Code = "node-generation"
	CodeNodeOwner       Code = "node-owner"
	CodeNodeParent      Code = "node-parent"
	CodeNodeOrder       Code = "node-order"
	CodeNodePlace       Code = "node-place"
	CodeItem            Code = "item"
	CodeItemUnknown     Code = "item-unknown"
	CodeTreeRoot        Code = "tree-root"
	CodeTreeMissing     Code = "tree-missing"
	CodeExtentMissing   Code = "extent-missing"
	CodeExtentUnused    Code = "extent-unreferenced"
	CodeExtentRefs      Code = "extent-refs"
	CodeExtentBackref   Code = "extent-backref"
	CodeExtentShape     Code = "extent-shape"
	CodeExtentPlace     Code = "extent-place"
	CodeExtentOverlap   Code = "extent-overlap"
	CodeExtentGen       Code = "extent-generation"
	CodeFreeSpace       Code = "free-space"
	CodeFreeSpaceItem   Code = "free-space-item"
	CodeFreeSpaceStale  Code = "free-space-stale"
	CodeCsumMissing     Code = "csum-missing"
	CodeCsumUnused      Code = "csum-unreferenced"
	CodeCsumUnwanted    Code = "csum-unwanted"
	CodeCsumOverlap     Code = "csum-overlap"
	CodeCsumPrealloc    Code = "csum-preallocated"
	CodeRaidStripe      Code = "raid-stripe"
	CodeInodeMissing    Code = "inode-missing"
	CodeInodeItem       Code = "inode-item"
	CodeInodeNlink      Code = "inode-link-count"
	CodeInodeNbytes     Code = "inode-nbytes"
	CodeInodeOrphan     Code = "inode-orphan"
	CodeInodeUnnamed    Code = "inode-unnamed"
	CodeDirSize         Code = "directory-size"
	CodeDirEntry        Code = "directory-entry"
	CodeInodeRef        Code = "inode-ref"
	CodeFileExtent      Code = "file-extent"
	CodeFileOverlap     Code = "file-extent-overlap"
	CodeFileGap         Code = "file-extent-gap"
	CodeFileRAMBytes    Code = "file-extent-ram-bytes"
	CodeRootItem        Code = "root-item"
	CodeRootRef         Code = "root-ref"
	CodeRootOrphan      Code = "root-orphan"
	CodeRootStub        Code = "root-stub"
	CodeUUID            Code = "uuid-tree"
	CodeQgroup          Code = "qgroup"
	CodeQgroupState     Code = "qgroup-state"
	CodeLog             Code = "log-tree"
	CodeLogPending      Code = "log-pending"
	CodeDataBad         Code = "data-bad"
	CodeDataCopy        Code = "data-copy"
	CodeMirrorsDiffer   Code = "mirrors-differ"
	CodeParity          Code = "parity"
	CodeInodeCache      Code = "inode-cache"
	CodeSubvolDropping  Code = "subvolume-dropping"
	CodeBalancePending  Code = "balance-pending"
	CodeSearchCut       Code = "search-cut"
	CodeReplacePending  Code = "replace-pending"
	CodeSpaceCacheStale Code = "space-cache"
)

var codes = map[Code]codeInfo{
	CodeOpen:            {Error, meansOpen, false},
	CodeSuper:           {Error, meansStructure, false},
	CodeSuperCopy:       {Warning, "the first good copy is used; the next commit or rescue rewrites the others", true},
	CodeDeviceSet:       {Warning, meansHarmless, false},
	CodeDeviceMissing:   {Error, "what only this device holds cannot be read; add the device and check again", false},
	CodeDeviceItem:      {Error, meansDevices, true},
	CodeDeviceBytes:     {Error, "the device's free space is counted wrongly; no data is at risk", true},
	CodeDevExtent:       {Error, meansDevices, true},
	CodeChunk:           {Error, meansDevices, false},
	CodeSystemArray:     {Error, "Linux may fail to mount it", true},
	CodeBlockGroup:      {Error, meansSpace, true},
	CodeBlockGroupUsed:  {Error, "the free space of this block group is counted wrongly: Linux may run out of space early or refuse to mount", true},
	CodeBytesUsed:       {Error, meansNumbers, true},
	CodeBackupRoot:      {Note, "mount with rescue=usebackuproot to read the older state", false},
	CodeNodeCopy:        {Error, meansBadCopy, true},
	CodeNodeUnreadable:  {Error, meansLost, false},
	CodeNodeHeader:      {Error, meansStructure, true},
	CodeNodeGeneration:  {Error, "the tree block is not the one that its parent was written with: Linux refuses to read it", false},
	CodeNodeOwner:       {Error, meansStructure, true},
	CodeNodeParent:      {Error, "searches below this place can miss what is there; " + meansNoWrite, true},
	CodeNodeOrder:       {Error, "searches below this place can miss what is there; " + meansNoWrite, true},
	CodeNodePlace:       {Error, meansStructure, false},
	CodeItem:            {Error, meansStructure, false},
	CodeItemUnknown:     {Error, "Linux ignores it; what it was before is not known", false},
	CodeTreeRoot:        {Error, "the tree cannot be read, or shows what was there earlier; " + meansNoWrite, false},
	CodeTreeMissing:     {Error, "Linux does not mount it, or mounts it for reading only", false},
	CodeExtentMissing:   {Error, meansRefs, true},
	CodeExtentUnused:    {Error, meansLeak, true},
	CodeExtentRefs:      {Error, meansRefs, true},
	CodeExtentBackref:   {Error, meansRefs, true},
	CodeExtentShape:     {Error, meansRefs, true},
	CodeExtentPlace:     {Error, meansSpace, false},
	CodeExtentOverlap:   {Error, "two users of the same space: one of them has already been overwritten, or will be", false},
	CodeExtentGen:       {Error, meansStructure, true},
	CodeFreeSpace:       {Error, meansSpace + "; the free-space tree or cache can be rebuilt", true},
	CodeFreeSpaceItem:   {Error, "Linux may refuse to use the free-space tree; it can be rebuilt", true},
	CodeFreeSpaceStale:  {Warning, "harmless; old versions of mkfs.btrfs left this behind", true},
	CodeCsumMissing:     {Error, "reading this range fails, although the data may be intact", true},
	CodeCsumUnused:      {Error, "checksums of data that no longer exists; no data is at risk", true},
	CodeCsumUnwanted:    {Error, "data without checksums has some: reading it may fail", true},
	CodeCsumOverlap:     {Error, "data may be verified with the wrong checksum", true},
	CodeCsumPrealloc:    {Warning, "harmless: space that reads as zeros is not verified; a file that shared it may have been written to and removed", true},
	CodeRaidStripe:      {Error, "data cannot be found on its devices, or would be overwritten there; " + meansNoWrite, false},
	CodeInodeMissing:    {Error, "the file cannot be opened; its contents may be recoverable", true},
	CodeInodeItem:       {Error, meansFile, true},
	CodeInodeNlink:      {Error, "removing the file's names can lose it early or leave it behind", true},
	CodeInodeNbytes:     {Error, "the file's disk usage is shown wrongly; its contents are intact", true},
	CodeInodeOrphan:     {Error, "the deleted file's space is never given back", true},
	CodeInodeUnnamed:    {Error, "the file exists, but no directory names it", true},
	CodeDirSize:         {Error, "the directory's size is shown wrongly; removing it may fail", true},
	CodeDirEntry:        {Error, meansName, true},
	CodeInodeRef:        {Error, meansName, true},
	CodeFileExtent:      {Error, meansFileData, false},
	CodeFileOverlap:     {Error, meansFileData, false},
	CodeFileGap:         {Error, "the file reads as zeros there; Linux expects an explicit hole", true},
	CodeFileRAMBytes:    {Warning, "harmless; Linux before 6.10 wrote such extents", true},
	CodeRootItem:        {Error, meansSubvol, true},
	CodeRootRef:         {Error, meansSubvol, true},
	CodeRootOrphan:      {Error, "the deleted subvolume's space is never given back", true},
	CodeRootStub:        {Note, meansHarmless, false},
	CodeUUID:            {Warning, "send and receive may not find the subvolume; Linux rebuilds the tree", true},
	CodeQgroup:          {Error, "quota numbers are wrong; a quota rescan corrects them", true},
	CodeQgroupState:     {Note, "quota numbers are not exact until a rescan has finished", true},
	CodeLog:             {Error, "what was synced after the last commit cannot be replayed; Linux refuses to mount until the log is cleared", true},
	CodeLogPending:      {Note, "the next mount replays it", false},
	CodeDataBad:         {Error, "these bytes of the file are lost", false},
	CodeDataCopy:        {Error, meansBadCopy, true},
	CodeMirrorsDiffer:   {Error, "there is no checksum to tell which copy is right", false},
	CodeParity:          {Error, "if a device fails, its data is rebuilt wrongly; scrub --repair computes the parity anew", true},
	CodeInodeCache:      {Error, "left over from a feature that Linux 5.11 removed; Linux 6.11 and later refuse such extents", true},
	CodeSubvolDropping:  {Note, "Linux goes on deleting it at the next mount", false},
	CodeBalancePending:  {Note, "Linux goes on with it at the next mount", false},
	CodeSearchCut:       {Warning, "there is more damage than is listed", false},
	CodeReplacePending:  {Note, "Linux goes on with it at the next mount", false},
	CodeSpaceCacheStale: {Warning, "Linux notices it, drops the cache and builds it anew", true},
}
