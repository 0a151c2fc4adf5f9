package space

import (
	"flag"
	"os"
	"testing"
)

// TestMain makes rapid's runs longer than its defaults; flags still override.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.steps": "80", "rapid.checks": "200"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	if testing.Short() {
		if err := flag.Set("rapid.checks", "40"); err != nil {
			panic(err)
		}
		flag.Parse() // an explicit number still wins
	}
	os.Exit(m.Run())
}
