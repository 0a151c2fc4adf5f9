// Package report describes filesystems to people and programs: manifests of
// their files, and how their space is used.
package report
