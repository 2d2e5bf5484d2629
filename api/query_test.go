package api_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// wrongValues are values that a described query parameter does not take.
func wrongValues(p *openapi3.Parameter) (wrong []string) {
	s := p.Schema.Value
	switch {
	case s.Type.Is("integer"):
		wrong = append(wrong, "x", "", "1.5", fmt.Sprint(int(*s.Min)-1), fmt.Sprint(int(*s.Max)+1), "99999999999999999999")
	case len(s.Enum) > 0:
		wrong = append(wrong, "nosuch", strings.ToUpper(s.Enum[0].(string)))
	case s.Format == "date-time":
		wrong = append(wrong, "yesterday", "2030-01-01", "1700000000")
	case s.MaxLength != nil:
		wrong = append(wrong, strings.Repeat("x", int(*s.MaxLength)+1))
	case s.Pattern != "":
		wrong = append(wrong, "no such thing", "../x")
	}
	return wrong
}

// A misspelt filter that is passed over answers another question than was asked.
func TestAMisspeltQueryParameterIsNotPassedOver(t *testing.T) {
	t.Parallel()
	s := serve(t)
	job, batch := s.submit(), s.batch(hello)
	const all = "acme:jobs:read,jobs:write,webhooks:write,admin,monitor"
	perRoute(t, job, batch, func(method, path, pattern string) {
		item := openSpec(t).doc.Paths.Value(pattern)
		refused := func(query, names string) {
			t.Helper()
			r := s.call(method, path+"?"+query, all, nil)
			if r.StatusCode != 400 || r.str(t, "code") != "invalid_request" || !strings.Contains(r.str(t, "detail"), names) {
				t.Errorf("%s %s?%s: got %d %s, want a 400 that names %s", method, pattern, query, r.StatusCode, r.body, names)
			}
		}
		refused("nosuch=1", "nosuch")
		refused("nosuch", "nosuch")
		refused("Limit=1", "Limit")
		refused("a%zz", "malformed")
		for _, p := range append(item.Parameters[:len(item.Parameters):len(item.Parameters)], item.GetOperation(method).Parameters...) {
			if p.Value.In != "query" {
				continue
			}
			name := p.Value.Name
			if p.Value.Schema == nil {
				t.Fatalf("%s %s: the query parameter %s has no schema", method, pattern, name)
			}
			wrong := wrongValues(p.Value)
			if len(wrong) == 0 {
				t.Errorf("%s %s: no value of the query parameter %s is known to be wrong", method, pattern, name)
			}
			for _, v := range wrong {
				refused(name+"="+url.QueryEscape(v), name)
			}
			refused(name+"=1&"+name+"=1", name)
		}
	})
}

func TestARefusalSaysWhatToDoNext(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, row := range []struct {
		body, code string
		says       []string
	}{
		{`{"model":"claude-x","prompt":"hi","temperature":0.5}`, "invalid_request", []string{`"temperature"`, `put it into "request"`}},
		{`{"model":"claude-x","prompt":"hi","promt":"hi"}`, "invalid_request", []string{`"promt"`, "leave it out"}},
		{`{"model":"nosuch","prompt":"hi"}`, "model_not_found", []string{`"model"`, "claude*", "gpt*"}},
		{`{"model":"claude-x","prompt":"hi","fallback_models":["nosuch"]}`, "model_not_found", []string{`"fallback_models"`, "claude*", "gpt*"}},
		{`{"model":"claude-x","prompt":"hi","metadata":{"row_id":1}}`, "invalid_request", []string{`"metadata.row_id"`, "a string"}},
		{`{"model":"claude-x","prompt":"hi","metadata":{"row_id":null}}`, "invalid_request", []string{`"metadata.row_id"`, "a string"}},
	} {
		detail := s.call("POST", "/v1/jobs", writer, row.body).want(t, map[bool]int{true: 404, false: 400}[row.code == "model_not_found"], row.code).str(t, "detail")
		for _, word := range row.says {
			if !strings.Contains(detail, word) {
				t.Errorf("%s: the refusal %q does not say %s", row.body, detail, word)
			}
		}
	}
	if detail := s.call("POST", "/v1/batches", writer, hello+"\n"+hello, "Content-Type", "application/json").want(t, 400, "invalid_request").str(t, "detail"); !strings.Contains(detail, "as application/x-ndjson") {
		t.Errorf("lines sent as one document are refused with %q", detail)
	}
	r := s.call("POST", "/v1/batches", writer, `{"custom_id":1,"model":"claude-x","prompt":"hi"}`, "Content-Type", "application/x-ndjson").want(t, 400, "invalid_request")
	if detail := r.str(t, "detail"); !strings.Contains(detail, `Line 1: The member "custom_id" must be a string`) {
		t.Errorf("a custom_id that is a number is refused with %q", detail)
	}
}

func TestTheFiltersOfAListChooseByWhatTheyName(t *testing.T) {
	t.Parallel()
	s := serve(t)
	submit := func(body string) string { return s.call("POST", "/v1/jobs", writer, body).want(t, 202).str(t, "id") }
	a := submit(`{"model":"claude-x","prompt":"a","metadata":{"run":"1","a b":"ü&=c"}}`)
	b := submit(`{"model":"gpt-x","prompt":"b","metadata":{"run":"1"}}`)
	c := submit(`{"model":"gpt-y","prompt":"c"}`)
	for query, want := range map[string][]string{
		"":                        {c, b, a},
		"pool=gpt":                {c, b},
		"pool=claude&model=gpt-x": nil,
		"metadata.run=1":          {b, a},
		"metadata.run=1&metadata.a%20b=%C3%BC%26%3Dc": {a},
		"metadata.run=":                                    nil,
		"metadata.nosuch=1":                                nil,
		"since=2000-01-01T00:00:00Z":                       {c, b, a},
		"since=2999-01-01T00:00:00%2B01:00":                nil,
		"until=2000-01-01T00:00:00Z":                       nil,
		"until=2999-01-01T00:00:00Z&pool=gpt":              {c, b},
		"status=&model=&pool=&batch=&since=&until=&after=": {c, b, a},
	} {
		var got []string
		for _, j := range s.call("GET", "/v1/jobs?"+query, reader, nil).want(t, 200).json(t)["data"].([]any) {
			got = append(got, j.(map[string]any)["id"].(string))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	for _, query := range []string{"metadata.=1", "metadata=1", "metadata." + strings.Repeat("k", 65) + "=1", "pool=nosuch", "since=2030-01-01T00:00:00"} {
		s.call("GET", "/v1/jobs?"+query, reader, nil).want(t, 400, "invalid_request")
	}
}
