package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sluicehq/sluice/worker/webhook"
)

// ListenCmd is a receiver of webhooks for development.
type ListenCmd struct {
	Secret []string `required:"" placeholder:"whsec_…" help:"What deliveries are signed with; more than one during a rotation. A whpk_… key verifies v1a."`
	Listen string   `default:"127.0.0.1:8090" help:"Address."`
	Status int      `default:"204" help:"Answer to what verifies; another than 2xx shows how Sluice tries again."`
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
	receiver, err := webhook.NewReceiver(webhook.ReceiverConfig{Keys: keys, Out: env.Stdout, Status: c.Status})
	if err != nil {
		return wrongUsage{err}
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: receiver, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	if _, err := fmt.Fprintf(env.Stdout, "http://%s\n", l.Addr()); err != nil {
		return errors.Join(err, server.Close(), ignoreClosed(<-ended))
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		err = server.Close()
	}
	return errors.Join(err, ignoreClosed(<-ended))
}
