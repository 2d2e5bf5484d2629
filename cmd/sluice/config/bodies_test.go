package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestLargeBodiesLieWhereTheConfigurationSays(t *testing.T) {
	t.Parallel()
	const external = "redis: {url: redis://127.0.0.1:6379}\n"
	for _, c := range []struct{ file, want string }{
		{"data_dir: /var/lib/sluice", "file:///var/lib/sluice/bodies"},
		{"data_dir: /var/lib/a b%c", "file:///var/lib/a%20b%25c/bodies"},
		{external + "data_dir: /var/lib/sluice", ""},
		{external + "bodies: {url: s3://prompts/x}", "s3://prompts/x"},
		{"bodies: {url: file:///srv/bodies}", "file:///srv/bodies"},
		{"bodies: {url: file:///srv/bodies}\nredis: {prefix: sluice}", "file:///srv/bodies"},
		{"bodies: {url: file:///srv/bodies}\nredis: {prefix: other}", "file:///srv/bodies/other"},
		{"bodies: {url: 's3://prompts?endpoint=http://127.0.0.1:9000'}\nredis: {prefix: other}", "s3://prompts/other?endpoint=http://127.0.0.1:9000"},
		{"data_dir: /var/lib/sluice\nredis: {prefix: other}", "file:///var/lib/sluice/bodies/other"},
		{"bodies: {url: 'redis:'}\nredis: {prefix: other}", "redis:"}, // its keys begin with the prefix
	} {
		if got := mustLoad(t, c.file).BodiesURL(); got != c.want {
			t.Errorf("%q: bodies lie at %q, want %q", c.file, got, c.want)
		}
	}
}

func TestABodyOfOnePieceStandsInItsRecord(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]int64{
		"":                                      16384,
		"bodies: {url: file:///srv/bodies}":     16384,
		"bodies: {url: 'redis:'}":               262144,
		"bodies: {url: 'redis:', above: 65536}": 262144,
		"bodies: {url: 'redis:', above: 1000000}": 1000000,
	} {
		if got := mustLoad(t, file).BodiesAbove(); got != want {
			t.Errorf("%q: %d bytes, want %d", file, got, want)
		}
	}
}

func TestKeysOfABucket(t *testing.T) {
	t.Parallel()
	aws := []string{"AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=geheim", "AWS_SESSION_TOKEN=token"}
	for _, c := range []struct {
		file string
		want Bodies
	}{
		{"bodies: {url: s3://prompts}", Bodies{AccessKey: "AKIA", SecretKey: "geheim", SessionToken: "token"}},
		{"bodies: {url: s3://prompts, access_key: own, secret_key: own}", Bodies{AccessKey: "own", SecretKey: "own"}},
		{"bodies: {url: file:///srv/bodies}", Bodies{}},
		{"", Bodies{}},
	} {
		got := mustLoad(t, c.file, aws...).Bodies
		if got.AccessKey != c.want.AccessKey || got.SecretKey != c.want.SecretKey || got.SessionToken != c.want.SessionToken {
			t.Errorf("%q: %+v, want %+v", c.file, got, c.want)
		}
	}
}

func TestFaultsOfBodies(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"bodies: {url: http://prompts.example}":                    "bodies.url",
		"bodies: {url: s3://AKIA:geheim@prompts}":                  "bodies.url",
		"bodies: {above: 0}":                                       "bodies.above",
		"bodies: {above: 1000000000}":                              "bodies.above",
		"bodies: {url: file:///srv, access_key: a, secret_key: b}": "bodies.access_key",
		"bodies: {url: s3://prompts, secret_key: geheim}":          "bodies.secret_key",
		"bodies: {url: s3://prompts, access_key: a}":               "bodies.secret_key",
		"bodies: {session_token: geheim}":                          "bodies.session_token",
	} {
		_, faults := load(t, file)
		said := fmt.Sprint(faults)
		if len(faults) == 0 || !strings.Contains(said, want) || strings.Contains(said, "geheim") {
			t.Errorf("%q: %v, want a fault of %s", file, faults, want)
		}
	}
}
