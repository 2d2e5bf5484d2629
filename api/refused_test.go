package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
)

// TestWhyATokenIsRefusedIsInTheLog lets the log and the counter know the reason, and
// the caller only once the signature is good.
func TestWhyATokenIsRefusedIsInTheLog(t *testing.T) {
	t.Parallel()
	mint := func(secret, audience string, at time.Time) string {
		token, err := auth.Mint(auth.MintConfig{
			Secret: []byte(strings.Repeat(secret, 32)), Issuer: "sluice", Audience: audience, Subject: "secret-subject", Tenant: "secret-tenant",
			Scopes: []string{auth.ScopeJobsRead}, Now: func() time.Time { return at },
		})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	metrics := prometheus.NewPedanticRegistry()
	v, err := auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: []byte(strings.Repeat("s", 32)), Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *api.Config) { c.Verifier = v })
	const silent = "The token is not valid."
	for _, row := range []struct{ name, token, detail, logged string }{
		{"no token", "x", silent, "refused=malformed"},
		{"another secret", mint("x", "sluice", time.Now()), silent, "refused=signature"},
		{"another secret, expired", mint("x", "sluice", time.Now().Add(-48*time.Hour)), silent, "refused=signature"},
		{"expired", mint("s", "sluice", time.Now().Add(-48*time.Hour)), "The token is not valid: the token has expired.", "refused=expired"},
		{"another audience", mint("s", "other", time.Now()), "The token is not valid: the token is meant for another audience.", "refused=audience"},
	} {
		before := len(s.log.String())
		r := s.call("GET", "/v1/jobs", row.token, nil)
		r.want(t, 401, "unauthorized")
		if got := r.str(t, "detail"); got != row.detail {
			t.Errorf("%s: told %q, want %q", row.name, got, row.detail)
		}
		line := s.log.String()[before:]
		if !strings.Contains(line, row.logged+" ") || strings.Contains(line, "secret-") {
			t.Errorf("%s: logged %s, want %s and no claim", row.name, line, row.logged)
		}
	}
	if n, err := testutil.GatherAndCount(metrics, "sluice_auth_refused_total"); err != nil || n != 4 {
		t.Errorf("got %d series, %v; want one for each reason", n, err)
	}
}
