//go:build long

package extract_test

const leastFiles = 50_000

func realTrees() []string { return []string{goroot(), "/usr/share"} }
