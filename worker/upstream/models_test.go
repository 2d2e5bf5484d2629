package upstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// Whoever asks which models there are asks for them by these names: a caller, and a probe.
func TestAListOfModelsHasOurNames(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"data":[{"id":"eu.one","name":"One"},{"id":"two","name":"Two"},{"id":"eu.three","name":"Three"}],"has_more":false}`)
	}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		models map[string]string
		want   []string
	}{
		{nil, []string{"eu.one", "two", "eu.three"}},
		{map[string]string{"one": "eu.one", "three": "eu.three", "drei": "eu.three", "four": "eu.four"}, []string{"one", "two", "drei", "three"}},
	} {
		for _, d := range []Dialect{OpenAI, Anthropic} {
			caller := newCaller(t, d, srv.URL, func(cfg *Config) { cfg.Provider.Models = c.models })
			a, names := caller.Models(t.Context())
			if a.Outcome != tasks.Succeeded || !slices.Equal(names, c.want) {
				t.Errorf("%s: %s, names %q, want %q", d, a.Outcome, names, c.want)
			}
			side := caller.Side(t.Context(), "/models?limit=1000", &tasks.Request{})
			for _, body := range [][]byte{a.Result, side.Result} {
				var list struct {
					Data []struct{ ID, Name string }
					More *bool `json:"has_more"`
				}
				if err := json.Unmarshal(body, &list); err != nil || list.More == nil || len(list.Data) != len(c.want) {
					t.Errorf("%s: a list %s, %v; want %q", d, body, err, c.want)
					continue
				}
				for i, m := range list.Data {
					if m.ID != c.want[i] || m.Name == "" {
						t.Errorf("%s: model %d is %+v, want %q", d, i, m, c.want[i])
					}
				}
			}
		}
	}
}
