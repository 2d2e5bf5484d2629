package drain

import (
	"fmt"

	"github.com/sluicehq/sluice/tasks"
)

// money is an amount for people, rounded.
func money(m tasks.Money) string {
	digits := 2
	if m > 0 && m < tasks.Unit/10 {
		digits = 4
	}
	return fmt.Sprintf("$%.*f", digits, float64(m)/float64(tasks.Unit))
}
