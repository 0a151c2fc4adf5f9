package manifest

import (
	"bytes"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"path":"a%25","type":"f","mode":"0644","mtime_ns":-1,"rdev":"1:3","xattrs":{"user.x":"eA=="},"sha256":""}`))
	f.Add([]byte(`{"path":"x","type":"d","ino":2,"stub":true}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(Append(nil, &e, All))
		if err != nil {
			t.Fatalf("own line refused: %v", err)
		}
		if !bytes.Equal(Append(nil, &e, All), Append(nil, &again, All)) {
			t.Fatal("a line changed when it was read back")
		}
	})
}
