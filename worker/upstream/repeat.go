package upstream

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// Repeatable reports whether a request asks for the same answer each time, as
// far as a provider can give it: it is in the provider's own form and its
// temperature is 0. A request that states no temperature has the provider's,
// which is not.
func Repeatable(r tasks.Request) bool {
	if r.Kind != tasks.Raw {
		return false
	}
	zero := false
	err := eachMember(r.Body, func(name string, v jsontext.Value, _, _ int) error {
		if name == "temperature" {
			n, err := strconv.ParseFloat(string(v), 64)
			zero = err == nil && n == 0
		}
		return nil
	})
	return err == nil && zero
}
