package api_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicehq/sluice/api"
	"github.com/sluicehq/sluice/api/auth"
	"github.com/sluicehq/sluice/api/desk"
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

// A provider's key that somebody sends by mistake is told for what it is, in the form of
// the route, and stands in no line of the log.
func TestAProvidersKeyIsKnownByItsForm(t *testing.T) {
	t.Parallel()
	v, err := auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: []byte(strings.Repeat("s", 32))})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *api.Config) { c.Verifier, c.Calls = v, struct{ desk.Calls }{} })
	const (
		anthropic = "The token is not valid: this is a key of Anthropic, not a token of this server: send a Sluice token, and have the operator put the provider's key into the configuration."
		openai    = "The token is not valid: this is a key of OpenAI's form, not a token of this server: send a Sluice token, and have the operator put the provider's key into the configuration."
	)
	for _, row := range []struct{ path, field, key, want string }{
		{"/v1/jobs", "Authorization", "sk-ant-api03-hushhush", anthropic},
		{"/v1/jobs", "Authorization", "sk-proj-hushhush", openai},
		{"/v1/jobs", "Authorization", "sk-hushhush", openai},
		{"/anthropic/v1/messages", "X-Api-Key", "sk-ant-api03-hushhush", anthropic},
		{"/anthropic/v1/messages", "Authorization", "sk-hushhush", openai},
		{"/openai/v1/chat/completions", "Authorization", "sk-proj-hushhush", openai},
		{"/openai/v1/chat/completions", "Authorization", "sk-svcacct-hushhush", openai},
		{"/v1/jobs", "Authorization", "sk-hush.hush.hush", "The token is not valid."},
		{"/v1/jobs", "Authorization", "SK-hushhush", "The token is not valid."},
	} {
		value := row.key
		if row.field == "Authorization" {
			value = "Bearer " + value
		}
		res, err := s.client.Do(s.request(t.Context(), "POST", row.path, "", "{}", row.field, value))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != 401 || !strings.Contains(string(body), row.want) {
			t.Errorf("%s with %s: %d %s, %v; want 401 and %q", row.path, row.key, res.StatusCode, body, err, row.want)
		}
	}
	if strings.Contains(s.log.String(), "hushhush") {
		t.Errorf("a key is in the log:\n%s", s.log.String())
	}
}
