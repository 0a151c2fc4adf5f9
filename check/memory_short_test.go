//go:build !long

package check_test

const boundedFiles = 200_000
