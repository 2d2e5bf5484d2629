package wire

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Both readers of lines see the same ones, whatever the buffer's size; of a line past the
// bound one says no more than that, and the other refuses it there.
func TestBothReadersOfLinesAgree(t *testing.T) {
	t.Parallel()
	const longest = 70 << 10 // more than the reader's buffer
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, row := range map[string]struct {
		body string
		want []string // number, length, "cut" where it is cut off
	}{
		"nothing":              {"", nil},
		"blank":                {"\n \r\n\t\n", nil},
		"one without its end":  {"a", []string{"1 1"}},
		"numbers count blanks": {"a\n\n b \r\nc\n", []string{"1 1", "3 1", "4 1"}},
		"a mark before all":    {"\xef\xbb\xbfa\nb", []string{"1 1", "2 1"}},
		"as long as may be":    {long(longest) + "\n" + long(longest), []string{"1 71680", "2 71680"}},
		"one byte too long":    {"a\n" + long(longest+2) + "\nb\n", []string{"1 1", "2 cut", "3 1"}},
		"much too long":        {long(5*longest) + "\nb\n" + long(3*longest), []string{"1 cut", "2 1", "3 cut"}},
		"blanks count":         {strings.Repeat(" ", 2*longest) + "\nb", []string{"1 cut", "2 1"}},
	} {
		var all, some []string
		err := AllLines(strings.NewReader(row.body), longest, func(line int, raw []byte, whole bool) error {
			if !whole {
				all = append(all, fmt.Sprint(line, " cut"))
				return nil
			}
			all = append(all, fmt.Sprint(line, " ", len(raw)))
			return nil
		})
		if err != nil || !slices.Equal(all, row.want) {
			t.Errorf("%s: AllLines saw %v, %v; want %v", name, all, err, row.want)
		}
		cut := slices.IndexFunc(row.want, func(s string) bool { return strings.HasSuffix(s, "cut") })
		err = Lines(strings.NewReader(row.body), longest, 99, func(line int, raw []byte) error {
			some = append(some, fmt.Sprint(line, " ", len(raw)))
			return nil
		})
		want := row.want
		if cut >= 0 {
			want = want[:cut]
		}
		if !slices.Equal(some, want) || (err != nil) != (cut >= 0) {
			t.Errorf("%s: Lines saw %v, %v; want %v", name, some, err, want)
		}
	}
}
