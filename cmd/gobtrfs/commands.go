package main

import "github.com/spf13/cobra"

// verbs are the commands in the order in which help lists them. A new verb adds
// its newXCmd here.
var verbs = []func(*app) *cobra.Command{
	newMkfsCmd,
	newLsCmd,
	newTreeCmd,
	newStatCmd,
	newCatCmd,
	newExtractCmd,
	newManifestCmd,
	newPutCmd,
	newMkdirCmd,
	newRmCmd,
	newMvCmd,
	newLnCmd,
	newCpCmd,
	newChmodCmd,
	newChownCmd,
	newTruncateCmd,
	newSetxattrCmd,
	newFallocateCmd,
	newEditCmd,
	newSubvolumeCmd,
	newQuotaCmd,
	newQgroupCmd,
	newDeviceCmd,
	newUsageCmd,
	newLabelCmd,
	newSyncCmd,
	newStatsCmd,
	newTopCmd,
	newInspectCmd,
	newCheckCmd,
	newScrubCmd,
	newLabCmd,
	newMountCmd,
	newUmountCmd,
	newMountHelperCmd,
	newVersionCmd,
}
