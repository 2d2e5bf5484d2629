package jsonread_test

import (
	"fmt"

	"github.com/sluicehq/sluice/api/jsonread"
)

func ExampleReader() {
	read := func(body string) error {
		r, err := jsonread.New([]byte(body))
		if err != nil {
			return err
		}
		return r.Object(func(name string) error {
			if name != "max_tokens" {
				return jsonread.Unknown(name)
			}
			_, err := r.Count(name, 1000)
			return err
		})
	}
	for _, body := range []string{`{"max_tokens":10}`, `{"max_tokens":"10"}`, `{"max_tokens":1001}`, `{"top":1}`, `{"max_tokens":10,"max_tokens":11}`, `{"max_tokens":`, `{} {}`} {
		fmt.Println(read(body))
	}
	// Output:
	// <nil>
	// The member "max_tokens" must be a whole number.
	// The member "max_tokens" must be a whole number from 1 to 1000.
	// The member "top" is unknown.
	// The member at "/max_tokens" is given twice.
	// The body ends before its JSON value does.
	// Something follows the JSON object.
}
