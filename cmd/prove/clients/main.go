// Command clients proves that api/openapi.yaml makes clients: one of Go by oapi-codegen and two
// of TypeScript, by openapi-typescript and by hey-api, each compiled and taken through the life of a job
// against a running sluice dev. It is a module of its own, so that the product does not depend
// on generators; make prove-clients generates and runs it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/prove/clients/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute) // most of it to build the program
	err := prove(ctx)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func prove(ctx context.Context) (err error) {
	work, err := os.MkdirTemp("", "sluice-clients-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	url, token, end, err := dev(ctx, work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := life(ctx, url, token); err != nil {
		return fmt.Errorf("the client of oapi-codegen: %w", err)
	}
	fmt.Println("oapi-codegen: submitted, read, listed, canceled, retried and deleted; a batch")
	for by, program := range map[string]string{"openapi-typescript": "out/life.mjs", "hey-api": "out/hey.mjs"} {
		node := exec.CommandContext(ctx, "node", program)
		node.Dir, node.Env = filepath.Join("testdata", "npm"), append(os.Environ(), "SLUICE_URL="+url, "SLUICE_TOKEN="+token)
		said, err := node.CombinedOutput()
		if err != nil {
			return fmt.Errorf("the client of %s: %w\n%s", by, err, said)
		}
		fmt.Print(string(said))
	}
	return nil
}

// dev builds and starts sluice dev, and returns what it tells its user to set.
func dev(ctx context.Context, work string) (url, token string, end func() error, err error) {
	program := filepath.Join(work, "sluice")
	if said, err := exec.CommandContext(ctx, "go", "-C", "../../..", "build", "-o", program, "./cmd/sluice").CombinedOutput(); err != nil {
		return "", "", nil, fmt.Errorf("build: %w\n%s", err, said)
	}
	cmd := exec.CommandContext(ctx, program, "dev")
	cmd.Dir, cmd.Env = work, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + work, "SLUICE_LISTEN=127.0.0.1:0", "SLUICE_OPS_LISTEN=127.0.0.1:0"}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", "", nil, err
	}
	for lines := bufio.NewScanner(out); token == "" && lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "export SLUICE_URL="); ok {
			url = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "export SLUICE_TOKEN="); ok {
			token = v
		}
	}
	end = func() error { return errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()) }
	if token == "" {
		return "", "", nil, errors.Join(errors.New("dev told no token"), end())
	}
	return url, token, end, nil
}

// life takes a job and a batch through all that a client does.
func life(ctx context.Context, url, token string) error {
	c, err := client.NewClientWithResponses(url, client.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
	if err != nil {
		return err
	}
	submit := func(text string) (string, error) {
		body := strings.NewReader(`{"model":"claude-sonnet-4-5","prompt":"hi"` + text + `}`)
		made, err := c.SubmitJobWithBodyWithResponse(ctx, nil, "application/json", body)
		if err != nil || made.JSON202 == nil {
			return "", fmt.Errorf("submit: %w", cause(err, made))
		}
		return made.JSON202.Id, nil
	}
	id, err := submit("")
	if err != nil {
		return err
	}
	wait := 30
	read, err := c.GetJobWithResponse(ctx, id, &client.GetJobParams{Wait: &wait})
	if err != nil || read.JSON200 == nil || read.JSON200.Status != "succeeded" || read.JSON200.Text == nil {
		return fmt.Errorf("read: %w", cause(err, read))
	}
	list, err := c.ListJobsWithResponse(ctx, nil)
	if err != nil || list.JSON200 == nil || len(list.JSON200.Data) != 1 || list.JSON200.Data[0].Id != id {
		return fmt.Errorf("list: %w", cause(err, list))
	}
	later, err := submit(`,"not_before":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"`)
	if err != nil {
		return err
	}
	if canceled, err := c.CancelJobWithResponse(ctx, later, nil); err != nil || canceled.JSON200 == nil || canceled.JSON200.Status != "canceled" {
		return fmt.Errorf("cancel: %w", cause(err, canceled))
	}
	if again, err := c.RetryJobWithResponse(ctx, later, nil); err != nil || again.JSON200 == nil {
		return fmt.Errorf("retry: %w", cause(err, again))
	}
	if gone, err := c.DeleteJobWithResponse(ctx, id, nil); err != nil || gone.StatusCode() != http.StatusNoContent {
		return fmt.Errorf("delete: %w", cause(err, gone))
	}
	batch, err := c.SubmitBatchWithBodyWithResponse(ctx, nil, "application/x-ndjson", strings.NewReader(`{"model":"claude-sonnet-4-5","prompt":"hi"}`+"\n"))
	if err != nil || batch.JSON202 == nil {
		return fmt.Errorf("batch: %w", cause(err, batch))
	}
	ended, err := c.GetBatchWithResponse(ctx, batch.JSON202.Id, &client.GetBatchParams{Wait: &wait})
	if err != nil || ended.JSON200 == nil || ended.JSON200.Status != "ended" {
		return fmt.Errorf("batch's end: %w", cause(err, ended))
	}
	return nil
}

// cause is why an answer is not the one that was awaited.
func cause(err error, answer interface{ Status() string }) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("answered %s", answer.Status())
}
