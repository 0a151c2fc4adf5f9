//go:build linux && !long

package report_test

// matrix is what every run tests.
func matrix() []image { return pairwise() }
