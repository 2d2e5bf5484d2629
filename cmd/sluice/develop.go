package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/worker/upstream/fake"
	"github.com/sluicehq/sluice/worker/webhook"
)

// FakeCmd is the fake provider alone.
type FakeCmd struct {
	Listen        string        `default:"127.0.0.1:8089" help:"Address."`
	RPM           float64       `name:"rpm" default:"1000" help:"Requests a minute of each key; 0 is no limit."`
	ITPM          float64       `name:"itpm" default:"2000000" help:"Input tokens a minute."`
	OTPM          float64       `name:"otpm" default:"400000" help:"Output tokens a minute."`
	Burst         float64       `default:"10" help:"Requests at once; 0 is one second's worth."`
	Latency       time.Duration `default:"500ms" help:"Mean time to the first byte."`
	LatencySpread float64       `default:"0.5" help:"Sigma of its lognormal."`
	TimePerToken  time.Duration `default:"5ms" help:"Time of each output token."`
	OutputTokens  float64       `default:"64" help:"Mean length of an answer."`
	OutputSpread  float64       `default:"0.5" help:"Sigma of its lognormal."`
	BatchDelay    time.Duration `default:"30s" help:"Mean time that a batch takes."`
	BatchStuck    float64       `help:"The part of the batches of which half of the requests are never answered."`
	BatchWindow   time.Duration `default:"24h" help:"After so long the rest of a batch expires."`
	BatchHidden   time.Duration `help:"For so long a fresh batch is answered with 404."`
	BatchQueue    int           `help:"Requests of each key in batches that have not ended, at most; 0 is no limit."`
	Seed          uint64        `help:"Shifts every draw."`
	RequireKey    string        `placeholder:"KEY" help:"The only key that is let in (default: any)."`
	Model         []string      `placeholder:"GLOB" help:"The models that exist (default: all)."`
	Fault         []string      `placeholder:"KIND[:PROBABILITY]" help:"Faults from the start, as in 529:0.1; more by POST /fake/faults."`
}

// Help lists the kinds of faults.
func (c *FakeCmd) Help() string {
	var refused, struck strings.Builder
	for _, k := range fake.Kinds() {
		list := &struck
		if k.Refuses {
			list = &refused
		}
		fmt.Fprintf(list, "  %-14s %s\n", k.Name, k.Says)
	}
	return "A fault is asked for by --fault, by POST /fake/faults, by the header X-Fake-Fault, or in a prompt: [[fault:529]], [[fault:529:2]] for two calls.\n\n" +
		"Calls are refused, at no charge, by\n\n" + refused.String() + "\nAccepted calls are struck by\n\n" + struck.String() +
		"\nBatches of both dialects are served. With the model batches.create, batches.read, batches.list, batches.results or batches.file a fault strikes these calls:\n" +
		"\"reset\" of a create loses its answer, \"cut\", \"truncated\" and \"garbage\" spoil a file of results.\n"
}

// Run serves until ctx ends. Its base URL is the one line on standard output.
func (c *FakeCmd) Run(ctx context.Context, env *Env) error {
	faults, err := parseFaults(c.Fault)
	if err != nil {
		return wrongUsage{err}
	}
	provider, err := fake.New(fake.Config{
		RequestsPerMinute: c.RPM, InputTokensPerMinute: c.ITPM, OutputTokensPerMinute: c.OTPM, RequestBurst: c.Burst,
		MeanLatency: c.Latency, LatencySigma: c.LatencySpread, TimePerToken: c.TimePerToken,
		MeanOutputTokens: c.OutputTokens, OutputSigma: c.OutputSpread,
		BatchDelay: c.BatchDelay, BatchStuck: c.BatchStuck, BatchWindow: c.BatchWindow, BatchHidden: c.BatchHidden, BatchQueue: c.BatchQueue,
		Seed: c.Seed, RequireKey: c.RequireKey, Models: c.Model, Faults: faults,
	})
	if err != nil {
		return wrongUsage{err}
	}
	defer provider.Close()
	server := &http.Server{Handler: provider, ReadHeaderTimeout: 10 * time.Second}
	return serveAlone(ctx, env, c.Listen, server, provider.Close) // calls that hang on purpose end there
}

// parseFaults reads KIND or KIND:PROBABILITY.
func parseFaults(list []string) ([]fake.Fault, error) {
	var out []fake.Fault
	for _, s := range list {
		kind, probability, given := strings.Cut(s, ":")
		f := fake.Fault{Kind: kind}
		if given {
			p, err := strconv.ParseFloat(probability, 64)
			if err != nil || p <= 0 || p > 1 {
				return nil, fmt.Errorf("fault %q: the probability has to be above 0 and at most 1", s)
			}
			f.Probability = p
		}
		out = append(out, f)
	}
	return out, nil
}

// ListenCmd is a receiver of webhooks for development.
type ListenCmd struct {
	Secret []string `required:"" placeholder:"whsec_…" help:"What deliveries are signed with; more than one during a rotation. A whpk_… key verifies v1a."`
	Listen string   `default:"127.0.0.1:8090" help:"Address."`
	Status int      `default:"204" help:"Answer to what verifies; another than 2xx shows how Sluice tries again."`
	JSON   bool     `name:"json" help:"Print each delivery as one line of JSON; the first line is the URL all the same."`
}

// Run prints a line for each delivery until ctx ends. Its URL is the first line.
func (c *ListenCmd) Run(ctx context.Context, env *Env) error {
	var keys []webhook.VerifyKey
	for _, s := range c.Secret {
		if k, err := webhook.ParsePublicKey(s); err == nil {
			keys = append(keys, k)
			continue
		}
		k, err := webhook.ParseSecret(s)
		if err != nil {
			return wrongUsage{fmt.Errorf("--secret: %w", err)}
		}
		keys = append(keys, k)
	}
	if c.Status < 200 || c.Status > 599 {
		return wrongUsage{errors.New("--status: it has to be an HTTP status from 200 to 599")}
	}
	receiver, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: keys, Out: env.Stdout, JSON: c.JSON, Status: c.Status})
	if err != nil {
		return wrongUsage{err}
	}
	server := &http.Server{Handler: receiver, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	return serveAlone(ctx, env, c.Listen, server, nil)
}

// listenOn listens at an address, which a setting or a flag names.
func listenOn(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: another address is named by %s; port 0 is any that is free", err, setting)
	}
	return l, nil
}

// aloneGrace is what calls in flight get when a server for development is stopped.
const aloneGrace = 2 * time.Second

// serveAlone serves until ctx ends; then stop, if set, lets go of what is held.
// The base URL is the one line on standard output.
func serveAlone(ctx context.Context, env *Env, address string, server *http.Server, stop func()) error {
	l, err := listenOn("--listen", address)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	if _, err := fmt.Fprintf(env.Stdout, "http://%s\n", l.Addr()); err != nil {
		return errors.Join(err, server.Close(), closed(<-ended))
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if stop != nil {
		stop()
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), aloneGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		err = server.Close()
	}
	return errors.Join(err, closed(<-ended))
}
