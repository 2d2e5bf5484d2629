package web

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

// How much of an allowance was used in the last hour is drawn beside what is used now; older moments
// and those that could not be read are not.
func TestTheLastHourIsDrawn(t *testing.T) {
	s := newSite(t, nil)
	w, jar := s.Config.Handler.(*Web), s.signIn("change")
	stands := func(used float64) {
		s.set(tasks.PoolStatus{Name: "gpt", State: tasks.PoolOpen, Allowance: []tasks.Allowance{{Dimension: tasks.WaitRequests, Limit: 60, Used: used}}})
		w.look(t.Context())
	}
	stands(1)
	if a := s.do(jar, "GET", "/", nil); strings.Contains(a.body, "polyline") {
		t.Error("one moment is drawn as a line")
	}
	s.advance(40 * time.Minute)
	stands(0.25)
	s.fail(errors.New("away"))
	w.look(t.Context())
	s.fail(nil)
	for _, path := range []string{"/", "/console/pools", "/pools/gpt"} {
		s.want(s.do(jar, "GET", path, nil), 200, `points="40.0,0.0 120.0,18.0"`, "Last hour: from 25 to 100 %")
	}
	s.advance(20 * time.Minute)
	stands(0.5)
	s.want(s.do(jar, "GET", "/", nil), 200, `points="80.0,18.0 120.0,12.0"`, "Last hour: from 25 to 50 %")
}
