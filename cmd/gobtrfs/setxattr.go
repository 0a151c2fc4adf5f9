package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/spf13/pflag"
)

var setxattrEdit = edit{
	use:   "NAME VALUE PATH",
	short: "Set or remove an extended attribute",
	long: `setxattr sets an extended attribute by its full name ("user.x"). VALUE is taken as
it is; 0x… is hexadecimal and 0s… base64, as in setfattr(1). With --remove VALUE
is left out.`,
	least: 2, most: 3,
	prepare: func(f *pflag.FlagSet) editFunc {
		remove := f.BoolP("remove", "x", false, "remove the attribute")
		return func(ctx context.Context, t *editTarget, args []string) error {
			if *remove != (len(args) == 2) {
				return usagef("want NAME VALUE PATH, or --remove NAME PATH")
			}
			if *remove {
				return t.RemoveXattr(ctx, args[1], args[0])
			}
			value, err := attrValue(args[1])
			if err != nil {
				return err
			}
			return t.SetXattr(ctx, args[2], args[0], value)
		}
	},
}

func attrValue(s string) ([]byte, error) {
	var b []byte
	var err error
	switch {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		b, err = hex.DecodeString(s[2:])
	case strings.HasPrefix(s, "0s"), strings.HasPrefix(s, "0S"):
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		return []byte(s), nil
	}
	if err != nil {
		return nil, usagef("value %q: %v", s, err)
	}
	return b, nil
}
