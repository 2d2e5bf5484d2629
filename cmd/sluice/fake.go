package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
	"github.com/sluicehq/sluice/worker/upstream/fake"
)

// fakeNotice is what is said wherever the built-in fake provider answers.
const fakeNotice = "no provider key is set: the built-in fake provider answers, with made-up text (set ANTHROPIC_API_KEY or OPENAI_API_KEY, or configure providers)"

// fakeKey is the one key that this process's fake provider takes.
const fakeKey = "built-in"

// fakeServer is the built-in provider of this process, on a loopback port.
type fakeServer struct {
	url    string
	fake   *fake.Provider
	server *http.Server
	ended  chan error
}

// startFake serves the fake provider with the limits of the first pool that
// uses it, so that the pace is real.
func startFake(cfg *config.Config, log *slog.Logger) (*fakeServer, error) {
	var limits config.Limits
	for _, p := range cfg.Pools {
		for _, a := range cfg.AccountsOf(p) {
			if provider, ok := cfg.Named(a.Provider); ok && provider.Fake && limits == (config.Limits{}) {
				limits = a.Limits
			}
		}
	}
	provider, err := fake.New(fake.Config{
		RequestsPerMinute: float64(limits.RequestsPerMinute), RequestBurst: float64(limits.RequestBurst),
		InputTokensPerMinute: float64(limits.InputTokensPerMinute), OutputTokensPerMinute: float64(limits.OutputTokensPerMinute),
		MeanLatency: 300 * time.Millisecond, LatencySigma: 0.5, TimePerToken: 2 * time.Millisecond, MeanOutputTokens: 64, OutputSigma: 0.5,
		RequireKey: fakeKey,
	})
	if err != nil {
		return nil, fmt.Errorf("start the fake provider: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		provider.Close()
		return nil, fmt.Errorf("start the fake provider: %w", err)
	}
	f := &fakeServer{
		url: "http://" + l.Addr().String(), fake: provider, ended: make(chan error, 1),
		server: &http.Server{Handler: provider, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)},
	}
	go func() { f.ended <- f.server.Serve(l) }()
	return f, nil
}

func (f *fakeServer) close() error {
	f.fake.Close()
	return errors.Join(f.server.Close(), closed(<-f.ended))
}

// closed is nil for the error of a server that was told to end.
func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
