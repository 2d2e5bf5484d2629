package tasks_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// However many tenants come at once, a hundred have a label of their own, and keep it.
func TestARosterNamesTheFirstTenants(t *testing.T) {
	t.Parallel()
	var r tasks.Roster
	if got := r.Label("first"); got != "first" {
		t.Errorf("the first tenant is called %q", got)
	}
	const came = 5 * tasks.RosterMost
	labels := make([]string, came)
	var all sync.WaitGroup
	for i := range came {
		all.Go(func() { labels[i] = r.Label(fmt.Sprint("tenant-", i)) })
	}
	all.Wait()
	named := 1
	for i, l := range labels {
		own := fmt.Sprint("tenant-", i)
		switch l {
		case own:
			named++
		case tasks.OtherTenants:
		default:
			t.Errorf("%s is called %q", own, l)
		}
		if again := r.Label(own); again != l {
			t.Errorf("%s is called %q, and %q before", own, again, l)
		}
	}
	if named != tasks.RosterMost {
		t.Errorf("%d tenants have a label of their own; want %d", named, tasks.RosterMost)
	}
	if got := r.Label("first"); got != "first" {
		t.Errorf("the first tenant is called %q later", got)
	}
}
