package upstream

import (
	"bytes"
	"context"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluicehq/sluice/tasks"
)

// Side asks the provider for what is no answer of a model and costs nothing: its list of
// models, a count of tokens. path is below the dialect's version, as in
// "/messages/count_tokens"; a nil body of r makes it a GET. A 2xx with a JSON object makes
// the Outcome Succeeded and Result its body; whatever else came is classified as in
// [Caller.Do].
func (c *Caller) Side(ctx context.Context, path string, r *tasks.Request) Answer {
	a := c.side(ctx, path, r)
	a.MaybeBilled = false
	a.clean(c.redact)
	return a
}

func (c *Caller) side(ctx context.Context, path string, r *tasks.Request) Answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method, body := http.MethodGet, r.Body
	if r.Body != nil {
		method = http.MethodPost
		if q := Read("", tasks.Request{Kind: tasks.Raw, Body: r.Body}); q.fault == nil {
			if q.as(c.provider.Models); q.model != "" {
				body = q.raw.splice(q.named())
			}
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.models, "/models")+path, bytes.NewReader(body))
	if err != nil || !sendable(r) {
		return Answer{Outcome: tasks.Rejected, Message: "the call cannot be built"}
	}
	c.sign(req.Header, r)
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return c.unanswered(ctx, err, true)
	}
	defer resp.Body.Close()
	a := c.begin(resp)
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		c.refused(&a, resp, cancel)
		return a
	}
	said, err := readBriefly(resp, maxModels, cancel)
	if err != nil || !isObject(said) {
		a.Outcome, a.Message = tasks.ServerError, "the address did not answer with a JSON object"
		return a
	}
	if a.Outcome, a.Result = tasks.Succeeded, said; r.Body == nil {
		a.Result = c.provider.renamed(said)
	}
	return a
}

// isObject reports whether a body is one JSON object.
func isObject(body []byte) bool {
	v := jsontext.Value(body)
	return v.Kind() == '{' && v.IsValid(lenient)
}
