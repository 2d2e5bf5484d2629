package openai

import (
	"context"
	"io"
	"strings"
	"testing"
)

type documents = Documents

// parts is a content in memory.
type parts struct {
	documents
	list []string
}

func (p parts) Content(_ context.Context, _ string, chunk int) ([]byte, error) {
	if chunk >= len(p.list) {
		return nil, nil
	}
	return []byte(p.list[chunk]), nil
}

// What is left of a file of which some was lost, or that somebody has cut or lengthened, is never
// read as the whole.
func TestAFileThatIsNotAsLongAsItWasIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		list  []string
		size  int64
		whole bool
	}{
		{"as it came", []string{"one,", "two,", "three"}, 13, true},
		{"empty", nil, 0, true},
		{"its last chunk is gone", []string{"one,", "two,"}, 13, false},
		{"all of it is gone", nil, 13, false},
		{"a chunk more", []string{"one,", "two,", "three", "four"}, 13, false},
		{"a chunk is shorter", []string{"one,", "tw", "three"}, 13, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := &API{c: Config{Documents: parts{list: c.list}}}
			got, err := io.ReadAll(&content{next: a.chunks(t.Context(), "file-1", c.size)})
			if c.whole && string(got) != strings.Join(c.list, "") || c.whole != (err == nil) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}
