//go:build linux && !long

package report_test

// matrix is what every run tests.
func matrix() []image { return pairwise() }

// logSeeds is how many random histories an unclean log is made from.
const logSeeds = 6
