package pool

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/worker/upstream"
)

// Lister lists the models of a provider; *upstream.Caller is one.
type Lister interface {
	Models(ctx context.Context) (upstream.Answer, []string)
}

// A provider is asked for its models once in listFresh, for at most listWait.
const (
	listFresh = time.Minute
	listWait  = 5 * time.Second
)

// listed is what a provider has listed last.
type listed struct {
	mu     sync.Mutex
	at     time.Time
	models []tasks.Model
}

// Models returns the models that pools of a dialect serve, as their providers list them.
// Of a provider that cannot be asked, they are those that the configuration names.
func (s *Set) Models(ctx context.Context, dialect string) (out []tasks.Model) {
	seen := map[string]bool{}
	add := func(m tasks.Model, served bool) {
		if served && !seen[m.ID] {
			seen[m.ID] = true
			out = append(out, m)
		}
	}
	for i := range s.members {
		m := &s.members[i]
		if string(m.Dialect) != dialect {
			continue
		}
		for _, found := range m.list(ctx) {
			_, served := s.MatchIn(dialect, found.ID)
			add(found, served && Serves(m.Models, found.ID))
		}
		for _, name := range m.Models {
			add(tasks.Model{ID: name}, !strings.ContainsAny(name, `*?[\`))
		}
	}
	return out
}

// list asks the pool's provider, or remembers what it said.
func (m *Member) list(ctx context.Context) []tasks.Model {
	if m.Lister == nil {
		return nil
	}
	m.listed.mu.Lock()
	defer m.listed.mu.Unlock()
	if time.Since(m.listed.at) < listFresh {
		return m.listed.models
	}
	ctx, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	a, _ := m.Lister.Models(ctx)
	if ctx.Err() == nil || a.Outcome == tasks.Succeeded {
		m.listed.at, m.listed.models = time.Now(), readModels(a.Result)
	}
	return m.listed.models
}

// readModels reads a provider's list; what is none has no models.
func readModels(list []byte) (out []tasks.Model) {
	var body struct {
		Data []json.RawMessage `json:"data"`
	}
	_ = json.Unmarshal(list, &body)
	for _, raw := range body.Data {
		var m struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(raw, &m) == nil && m.ID != "" {
			out = append(out, tasks.Model{ID: m.ID, Body: raw})
		}
	}
	return out
}
