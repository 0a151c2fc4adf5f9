//go:build !long

package extract_test

const leastFiles = 1000

func realTrees() []string { return []string{goroot("src", "internal"), goroot("src", "runtime")} }
