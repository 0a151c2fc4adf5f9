package check

import (
	"os"
	"strings"
	"testing"
)

// TestEveryCodeIsDocumented reads the table in docs/check.md.
func TestEveryCodeIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	for code, info := range codes {
		row := "| `" + string(code) + "` | " + info.severity.String() + " | " + info.means + " |"
		if !strings.Contains(string(b), row) {
			t.Errorf("docs/check.md has no row for %s as it is: %s", code, row)
		}
	}
}
