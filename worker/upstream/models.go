package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"

	"github.com/sluicehq/sluice/tasks"
)

// maxModels caps what is read of a list of models.
const maxModels = 1 << 20

// Models asks for the provider's list of models, the call that costs nothing and
// shows whether the key is taken. A list makes the Outcome Succeeded and Result
// its body; whatever else came is classified as in [Caller.Do]. names are the
// models' ids, as many as the list's first page has, both by our names of them.
func (c *Caller) Models(ctx context.Context) (a Answer, names []string) {
	a, names = c.list(ctx)
	a.clean(c.redact)
	return a, names
}

func (c *Caller) list(ctx context.Context) (a Answer, names []string) {
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var connected atomic.Bool
	callCtx = httptrace.WithClientTrace(callCtx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(callCtx, http.MethodGet, c.models, nil)
	if err != nil {
		return Answer{Outcome: tasks.Rejected, Message: "the call cannot be built"}, nil
	}
	c.sign(req.Header, &tasks.Request{})
	resp, err := c.client.Do(req)
	if err != nil {
		a = c.unanswered(ctx, err, connected.Load())
		a.MaybeBilled = false
		return a, nil
	}
	defer resp.Body.Close()
	a = c.begin(resp)
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		c.refused(&a, resp, cancel)
		a.MaybeBilled = false
		return a, nil
	}
	body, readErr := readBriefly(resp, maxModels, cancel)
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := errors.Join(readErr, json.Unmarshal(body, &list)); err != nil || list.Data == nil {
		a.Outcome, a.Message = tasks.ServerError, "the address did not answer with a list of models"
		return a, nil
	}
	for _, m := range list.Data {
		names = append(names, c.provider.ours(m.ID)...)
	}
	a.Outcome, a.Result = tasks.Succeeded, c.provider.renamed(body)
	return a, names
}

// ours are our names of what the provider calls by a name: as it does, where we have none.
func (p *Provider) ours(theirs string) (names []string) {
	for ours, name := range p.Models {
		if name == theirs {
			names = append(names, ours)
		}
	}
	if names == nil {
		return []string{theirs}
	}
	slices.Sort(names)
	return names
}

// renamed is a list of models by our names. What is no list is as it was.
func (p *Provider) renamed(list []byte) []byte {
	var whole map[string]json.RawMessage
	var data []map[string]json.RawMessage
	if len(p.Models) == 0 || json.Unmarshal(list, &whole) != nil || json.Unmarshal(whole["data"], &data) != nil || data == nil {
		return list
	}
	named := make([]map[string]json.RawMessage, 0, len(data))
	for _, m := range data {
		var id string
		_ = json.Unmarshal(m["id"], &id)
		for _, name := range p.ours(id) {
			if name != id {
				m = maps.Clone(m)
				m["id"] = appendString(nil, name)
			}
			named = append(named, m)
		}
	}
	raw, err := json.Marshal(named)
	if err != nil {
		return list
	}
	whole["data"] = raw
	if out, err := json.Marshal(whole); err == nil {
		return out
	}
	return list
}
