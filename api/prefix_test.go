package api_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/sluicehq/sluice/api"
)

// A proxy that serves the API under a path may leave it in the address or take it away.
func TestThePathOfPublicURLMayComeOrNot(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *api.Config) {
		c.Extra = map[string]http.Handler{"/": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Content-Type-Options", "nosniff")
			_, _ = io.WriteString(w, "console at "+r.URL.Path)
		})}
	})
	id := s.submit()
	for path, want := range map[string]int{
		"/base/v1/jobs/" + id: 200, "/v1/jobs/" + id: 200, "/base/readyz": 200, "/base/docs": 200, "/base/openapi.yaml": 200,
		"/basement/v1/jobs/" + id: 404, "/base/base/v1/jobs/" + id: 404, "/base": 200, "/base/": 200, "/": 200,
	} {
		req := s.request(t.Context(), "GET", path, reader, nil)
		res, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, res.Status, want)
		}
	}
}
