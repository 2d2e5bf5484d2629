package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

// defaultURL is where sluice dev listens.
const defaultURL = "http://127.0.0.1:8080"

const (
	// waitPiece is the longest that one request is held: a longer wait is made of
	// several, for a proxy in between gives up after 30 s or more and hides the answer.
	waitPiece = 25 * time.Second
	// askAgainFor is how long a command asks again while no answer of Sluice's comes.
	askAgainFor = time.Minute
)

// maxAnswer bounds what is read of one answer: a job with a result of the
// largest size that can be configured to make sense.
const maxAnswer = 256 << 20

// ClientFlags are the flags of every command that asks the API.
type ClientFlags struct {
	URL       string `name:"url" placeholder:"URL" help:"Address of the API (default: $$SLUICE_URL, else http://127.0.0.1:8080)."`
	TokenFile string `placeholder:"FILE" help:"File with the bearer token (default: $$SLUICE_TOKEN, else the file $$SLUICE_TOKEN_FILE)."`
}

// client asks the API.
type client struct {
	base  string
	token string
	http  *http.Client
}

// client returns a client; the caller closes it.
func (f ClientFlags) client(env *Env) (*client, error) {
	base := strings.TrimRight(firstSet(f.URL, env.vars["SLUICE_URL"], defaultURL), "/")
	if err := config.CheckURL(base); err != nil {
		return nil, wrongUsage{fmt.Errorf("the address of the API %w", err)}
	}
	var token string
	var err error
	switch {
	case f.TokenFile != "":
		token, err = config.ReadSecret(f.TokenFile)
	case env.vars["SLUICE_TOKEN"] != "":
		token = env.vars["SLUICE_TOKEN"]
	case env.vars["SLUICE_TOKEN_FILE"] != "":
		token, err = config.ReadSecret(env.vars["SLUICE_TOKEN_FILE"])
	}
	if err != nil {
		return nil, fmt.Errorf("read the token: %w", err)
	}
	return &client{
		base: base, token: strings.TrimSpace(token),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 http.ProxyFromEnvironment,
				DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				TLSHandshakeTimeout:   10 * time.Second,
				ResponseHeaderTimeout: waitPiece + 35*time.Second,
				ForceAttemptHTTP2:     true,
			},
			// A token goes to the address that was given and to no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// send makes one request. An answer that is not a success is an error; the
// caller closes the body of one that is.
func (c *client) send(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	req.Header.Set("User-Agent", "sluice-cli/"+version)
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("the API at %s cannot be reached: %w", c.base, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.problem(res)
}

// call makes one request and reads the whole answer.
func (c *client) call(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	res, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return b, nil
}

// again makes a call that may be made twice until Sluice answers it, for at most
// askAgainFor: a proxy's 502 or 504 and a connection that breaks say nothing of what
// became of it. With accepted, the job is there, and its API may be restarted: that it
// cannot be reached, or says 503 itself, is waited out too.
func again(ctx context.Context, accepted bool, call func() ([]byte, error)) ([]byte, error) {
	giveUp := time.Now().Add(askAgainFor)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		b, err := call()
		var told *apiError
		var op *net.OpError
		switch {
		case err == nil || ctx.Err() != nil || !time.Now().Before(giveUp):
			return b, err
		case errors.As(err, &told):
			ours := told.Code != ""
			switch told.Status {
			case http.StatusBadGateway, http.StatusGatewayTimeout:
			case http.StatusServiceUnavailable:
				if ours && !accepted {
					return b, err
				}
				pause = max(pause, min(told.RetryAfter, 5*time.Second))
			default:
				return b, err
			}
		case !accepted && errors.As(err, &op) && op.Op == "dial":
			return b, err // perhaps it is not the address
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// apiError is a problem (RFC 9457) that the API answered.
type apiError struct {
	Status     int
	Code       string `json:"code"`
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	RequestID  string `json:"request_id"`
	RetryAfter time.Duration
	noToken    bool
}

// Error is one line.
func (e *apiError) Error() string {
	s := strconv.Itoa(e.Status)
	if e.Code != "" {
		s += " " + e.Code
	}
	s += ": " + firstSet(e.Detail, e.Title, http.StatusText(e.Status), "no explanation")
	if e.noToken {
		s += " Set SLUICE_TOKEN; sluice dev prints one, sluice token mints one."
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(" Try again in %s.", e.RetryAfter)
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return strings.Join(strings.Fields(s), " ")
}

func (c *client) problem(res *http.Response) error {
	e := &apiError{}
	if b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10)); err == nil {
		_ = json.Unmarshal(b, e)
	}
	if e.Code == "" {
		media, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
		e.Detail = fmt.Sprintf("%s. The answer is not Sluice's (%s): a proxy before it gave it.", firstSet(http.StatusText(res.StatusCode), "no explanation"), firstSet(media, "no content type"))
	}
	e.Status = res.StatusCode
	e.noToken = res.StatusCode == http.StatusUnauthorized && c.token == ""
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// job is what the commands look at of a job; it is printed as it came.
type job struct {
	ID     string  `json:"id"`
	Status string  `json:"status"`
	Pool   string  `json:"pool"`
	Text   *string `json:"text"`
	Error  *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Waiting *struct {
		For      *string    `json:"for"`
		Position int64      `json:"position"`
		Start    *time.Time `json:"estimated_start_at"`
	} `json:"waiting"`

	raw []byte
}

func parseJob(b []byte) (*job, error) {
	j := &job{raw: b}
	if err := json.Unmarshal(b, j); err != nil || j.ID == "" {
		return nil, errors.New("the answer is not a job: is this the address of a Sluice API?")
	}
	return j, nil
}

func (j *job) final() bool {
	switch j.Status {
	case "succeeded", "failed", "canceled", "expired":
		return true
	}
	return false
}

// failure is the error of a job that ended without a result, or nil.
func (j *job) failure() error {
	switch {
	case !j.final() || j.Status == "succeeded":
		return nil
	case j.Error != nil:
		return fmt.Errorf("%s %s: %s: %s", j.ID, j.Status, j.Error.Code, j.Error.Message)
	}
	return fmt.Errorf("%s %s", j.ID, j.Status)
}

// OneLine is of commands that print JSON anyway.
type OneLine struct {
	JSON bool `name:"json" help:"Print one line, at a terminal too."`
}

// print writes JSON: one line, or laid out for a reader at a terminal.
func (o OneLine) print(w io.Writer, b []byte) error {
	if o.JSON || !terminal(w) {
		return printLine(w, b)
	}
	return printLaidOut(w, b)
}

// show makes the one call of a command and prints the answer.
func (f ClientFlags) show(ctx context.Context, env *Env, method, path string, body []byte, as OneLine) error {
	b, err := f.ask(ctx, env, method, path, body, false)
	if err != nil {
		return err
	}
	return as.print(env.Stdout, b)
}

// ask makes the one call of a command and returns the answer, which it prints as a line of JSON
// where that is asked for.
func (f ClientFlags) ask(ctx context.Context, env *Env, method, path string, body []byte, asJSON bool) ([]byte, error) {
	api, err := f.client(env)
	if err != nil {
		return nil, err
	}
	defer api.close()
	b, err := api.call(ctx, method, path, nil, body)
	if err == nil && asJSON {
		err = printLine(env.Stdout, b)
	}
	return b, err
}

func printLaidOut(w io.Writer, b []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}

// printText writes the job's text alone. A job without one is an error.
func (j *job) printText(w io.Writer) error {
	if err := j.failure(); err != nil {
		return err
	}
	if !j.final() {
		return fmt.Errorf("%s is %s: sluice get --wait 60 --text %s waits for it", j.ID, j.Status, j.ID)
	}
	text := ""
	if j.Text != nil {
		text = *j.Text
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// getJob reads a job; with wait it asks again until the job is final or wait
// has passed. accepted says that the job is known to be there.
func (c *client) getJob(ctx context.Context, id string, wait time.Duration, accepted bool) (*job, error) {
	path := "/v1/jobs/" + url.PathEscape(id)
	end := time.Now().Add(wait)
	for {
		query := ""
		if left := time.Until(end); wait > 0 && left > 0 {
			query = "?wait=" + seconds(min(left, waitPiece))
		}
		ask := func() ([]byte, error) { return c.call(ctx, http.MethodGet, path+query, nil, nil) }
		var b []byte
		var err error
		if wait > 0 {
			b, err = again(ctx, accepted, ask)
		} else {
			b, err = ask()
		}
		if err != nil {
			var told *apiError
			if accepted && ctx.Err() == nil && !(errors.As(err, &told) && told.Status < 500) {
				err = fmt.Errorf("%w; %s goes on: sluice get --wait 60 %s asks for it", err, id, id)
			}
			return nil, err
		}
		j, err := parseJob(b)
		if err != nil || j.final() || query == "" {
			return j, err
		}
		accepted = true
	}
}

// seconds writes a duration as the API takes one, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
