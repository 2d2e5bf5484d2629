package api_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestAJobThatWaitsIsChanged(t *testing.T) {
	t.Parallel()
	s := serve(t)
	id := s.call("POST", "/v1/jobs", writer, `{"model":"claude-x","prompt":"x","metadata":{"a":"1","b":"2"}}`).want(t, 202).str(t, "id")
	path := "/v1/jobs/" + id
	tag := s.call("GET", path, reader, nil).want(t, 200).Header.Get("ETag")
	many := func(n int) string {
		var pairs []string
		for i := range n {
			pairs = append(pairs, fmt.Sprintf(`"k%d":"v"`, i))
		}
		return `{"metadata":{` + strings.Join(pairs, ",") + `}}`
	}
	for _, row := range []struct {
		patch  string
		status int
		code   string // or, of a 200, what the job holds then
	}{
		{`{}`, 200, `"priority":"normal"`},
		{`{"priority":"low"}`, 200, `"priority":"low"`},
		{`{"priority":null}`, 200, `"priority":"normal"`},
		{`{"deadline":"2999-01-01T00:00:00Z"}`, 200, `"deadline":"2999-01-01T00:00:00.000Z"`},
		{`{"priority":"high"}`, 200, `"deadline":"2999-01-01T00:00:00.000Z"`},
		{`{"deadline":null}`, 200, `"priority":"high"`},
		{`{"metadata":{"a":null,"c":"\u00fc"}}`, 200, `"metadata":{"b":"2","c":"ü"}`},
		{`{"metadata":{"a":null}}`, 200, `"metadata":{"b":"2","c":"ü"}`},
		{many(14), 200, `"k13":"v"`},
		{many(15), 400, "invalid_request"},
		{many(33), 400, "invalid_request"},
		{`{"metadata":null}`, 200, `"metadata":{}`},
		{`{"metadata":{"` + strings.Repeat("k", 65) + `":null}}`, 400, "invalid_request"},
		{`{"metadata":{"a":"` + strings.Repeat("v", 513) + `"}}`, 400, "invalid_request"},
		{`{"metadata":{"a":1}}`, 400, "invalid_request"},
		{`{"metadata":[]}`, 400, "invalid_request"},
		{`{"priority":"urgent"}`, 400, "invalid_request"},
		{`{"priority":"low","prompt":"y"}`, 400, "invalid_request"},
		{`{"priority":"low","priority":"high"}`, 400, "invalid_json"},
		{`{"deadline":"2001-01-01T00:00:00Z"}`, 422, "impossible_time"},
		{`{"deadline":"tomorrow"}`, 400, "invalid_request"},
		{`[]`, 400, "invalid_request"},
		{``, 400, "invalid_json"},
	} {
		r := s.call("PATCH", path, writer, row.patch)
		if row.status != 200 {
			r.want(t, row.status, row.code)
		} else if r.want(t, 200); !strings.Contains(string(r.body), row.code) {
			t.Errorf("%s: %s", row.patch, r.body)
		}
	}
	s.call("PATCH", path, reader, `{}`).want(t, 403, "forbidden")
	s.call("PATCH", path, other, `{}`).want(t, 404, "not_found")
	s.call("PATCH", "/v1/jobs/job_1", writer, `{}`).want(t, 404, "not_found")
	s.call("PATCH", path, writer, `{}`, "Content-Type", "application/merge-patch+json").want(t, 200)
	s.call("PATCH", path, writer, `{}`, "Content-Type", "text/plain").want(t, 415)
	if r := s.call("GET", path, reader, nil, "If-None-Match", tag).want(t, 200); r.Header.Get("ETag") == tag {
		t.Error("the entity tag is as before")
	}
	s.world.start(id)
	if r := s.call("PATCH", path, writer, `{"priority":"low"}`).want(t, 409, "conflict"); !strings.Contains(r.str(t, "detail"), "while it waits") {
		t.Errorf("while it runs: %s", r.body)
	}
}
