package jsonwrite_test

import (
	"fmt"
	"time"

	"github.com/sluicehq/sluice/api/jsonwrite"
)

func ExampleObject() {
	var o jsonwrite.Object
	o.Str("id", "job_1")
	o.Time("started_at", time.Time{})
	o.Within("usage", func(o *jsonwrite.Object) { o.Num("input_tokens", 12) })
	o.Within("metadata", func(o *jsonwrite.Object) { o.Pair(`a "name"`, "a\nvalue") })
	o.Name("result")
	o.B = append(o.B, `{"n":1.0}`...) // as the provider wrote it
	fmt.Println(string(o.End()))
	// Output:
	// {"id":"job_1","started_at":null,"usage":{"input_tokens":12},"metadata":{"a \"name\"":"a\nvalue"},"result":{"n":1.0}}
}
