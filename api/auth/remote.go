package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	fetchTimeout = 5 * time.Second
	renewAfter   = 10 * time.Minute // by Run
	refreshAfter = 15 * time.Minute // a key taken out of the set is honoured no longer than this
	retryAfter   = 10 * time.Second // after a fetch that failed, and what one fetch for an unknown kid costs
	dropAfter    = 24 * time.Hour   // an address that cannot be reached vouches for nothing
	burst        = 5                // fetches for unknown kids at once

	wellKnown = "/.well-known/openid-configuration"
)

// remoteKeys is a key set at an address, fetched by whoever needs it, one at a time.
//
// A kid that is not in the set may be a new key's, so it is looked for at once: but at
// most five times in a row and then every 10 s, and each kid once in 10 s. A flood of
// made-up kids makes no flood of fetches.
type remoteKeys struct {
	loader
	turn chan struct{} // holds one token, taken by whoever fetches
	kept atomic.Bool   // keep runs: nobody else has to renew a set that serves

	// Guarded by turn.
	tried  time.Time            // of the last fetch
	full   time.Time            // when all fetches for unknown kids are to be had again
	missed map[string]time.Time // kids that a fetch did not find, of the last 10 s

	set   atomic.Pointer[fetchedSet]
	tries atomic.Int64                // fetches that ended
	fault atomic.Pointer[failedFetch] // of the last fetch; nil: it succeeded, or there was none
}

type fetchedSet struct {
	*keySet
	at time.Time
}

// failedFetch is why a fetch failed.
type failedFetch struct{ error }

func newRemoteKeys(l loader) *remoteKeys {
	k := &remoteKeys{loader: l, turn: make(chan struct{}, 1), missed: map[string]time.Time{}}
	k.turn <- struct{}{}
	return k
}

// serving returns the set unless there is none or it is too old.
func (k *remoteKeys) serving() *fetchedSet {
	if set := k.set.Load(); set != nil && k.now().Sub(set.at) < dropAfter {
		return set
	}
	return nil
}

func (k *remoteKeys) find(ctx context.Context, name keyName) (any, error) {
	tries, set := k.tries.Load(), k.serving()
	looked := false
	switch {
	case set == nil || !set.has(name.kid):
		select {
		case <-k.turn:
			looked = k.look(ctx, tries, set == nil, name.kid)
		case <-ctx.Done():
			return nil, ErrUnavailable
		}
	case k.now().Sub(set.at) >= refreshAfter && !k.kept.Load():
		// One caller renews it; the others go on with what there is.
		select {
		case <-k.turn:
			k.renew(ctx, tries)
		default:
		}
	}
	if set = k.serving(); set == nil {
		return nil, ErrUnavailable
	}
	key, err := set.find(name)
	if err != nil && !set.has(name.kid) && !looked && k.fault.Load() != nil {
		return nil, ErrUnavailable // the key may be a new one
	}
	return key, err
}

// look fetches the set for a kid that is not in it, unless somebody did meanwhile or
// just now, or it has been asked too often. It reports whether the set is now known to
// have it or not. The caller has the turn, and look gives it back.
func (k *remoteKeys) look(ctx context.Context, tries int64, none bool, kid string) bool {
	defer func() { k.turn <- struct{}{} }()
	ctx = context.WithoutCancel(ctx) // others wait for this fetch, so it does not end with the request that began it
	if k.tries.Load() != tries {
		return k.fault.Load() == nil
	}
	now := k.now()
	for other, at := range k.missed {
		if now.Sub(at) >= retryAfter {
			delete(k.missed, other)
		}
	}
	switch _, missed := k.missed[kid]; {
	case (none || k.fault.Load() != nil) && !k.tried.IsZero() && now.Sub(k.tried) < retryAfter:
		return false
	case none:
		return k.fetched(ctx) == nil
	case missed:
		return true
	case k.full.Sub(now) > (burst-1)*retryAfter:
		return true // the set of less than 10 s ago did not have it
	}
	if k.full.Before(now) {
		k.full = now
	}
	k.full = k.full.Add(retryAfter)
	if k.fetched(ctx) != nil {
		return false
	}
	if !k.set.Load().has(kid) {
		k.missed[kid] = now
	}
	return true
}

// renew fetches the set unless somebody did meanwhile or tried just now. The caller
// has the turn, and renew gives it back.
func (k *remoteKeys) renew(ctx context.Context, tries int64) {
	defer func() { k.turn <- struct{}{} }()
	ctx = context.WithoutCancel(ctx)
	if k.tries.Load() == tries && (k.tried.IsZero() || k.now().Sub(k.tried) >= retryAfter) {
		_ = k.fetched(ctx) // which notes it
	}
}

// fetched fetches the set and notes how that went. The caller has the turn.
func (k *remoteKeys) fetched(ctx context.Context) error {
	k.tried = k.now()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	defer k.tries.Add(1)
	set, err := k.fetch(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err() // the process stops
	}
	before := k.fault.Load()
	if err != nil {
		if before == nil {
			before = &failedFetch{}
		}
		k.failed(before.error, err)
		k.fault.Store(&failedFetch{err})
		return err
	}
	var old *keySet
	if was := k.set.Load(); was != nil && before == nil {
		old = was.keySet
	}
	k.loaded(old, set)
	k.set.Store(&fetchedSet{set, k.tried})
	k.fault.Store(nil)
	return nil
}

// keep fetches the set now and from then on, so that no caller waits for it, until
// ctx ends.
func (k *remoteKeys) keep(ctx context.Context) {
	k.kept.Store(true)
	defer k.kept.Store(false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-k.turn:
		}
		pause := renewAfter + rand.N(renewAfter/10) // so that many processes do not ask at once
		if k.fetched(ctx) != nil {
			pause = retryAfter
		}
		k.turn <- struct{}{}
		timer.Reset(pause)
	}
}

func (k *remoteKeys) state() KeySet {
	s := KeySet{Setting: k.setting()}
	why := k.fault.Load()
	set := k.serving()
	switch {
	case set == nil && why == nil:
		s.Down = s.Setting + ": the key set has not been fetched yet"
	case set == nil:
		s.Down, s.Cause = s.Setting+": the key set cannot be fetched: "+safeFetch(why.error), why.error
	default:
		s.Notices = k.notices(set.keySet)
		if why != nil {
			s.Notices = append(s.Notices, s.Setting+": the key set cannot be fetched, so the keys fetched before are in force, for a day at most: "+safeFetch(why.error))
		}
	}
	return s
}

// fetch gets the set, asking the issuer first where it is if need be.
func (k *remoteKeys) fetch(ctx context.Context) (*keySet, error) {
	client, err := k.client()
	if err != nil {
		return nil, err
	}
	address := k.at.url
	if k.at.discovery {
		if address, err = k.discover(ctx, client); err != nil {
			return nil, err
		}
	}
	text, err := k.get(ctx, client, address)
	if err != nil {
		return nil, err
	}
	return parseKeys(text)
}

// discover asks the issuer where its keys are.
func (k *remoteKeys) discover(ctx context.Context, client *http.Client) (string, error) {
	text, err := k.get(ctx, client, strings.TrimSuffix(k.at.issuer, "/")+wellKnown)
	if err != nil {
		return "", &discoveryError{err}
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", told("the issuer's " + wellKnown + " is no discovery document")
	}
	// OpenID Connect Discovery 1.0 section 4.3: else one issuer could hand out another's keys.
	if doc.Issuer != k.at.issuer {
		return "", told("the issuer's discovery document is of another issuer; every letter of auth.issuers' issuer counts, a slash at the end too")
	}
	if err := checkAddress(doc.JWKSURI, k.at.allowHTTP); err != nil {
		return "", tell("the jwks_uri of the issuer's discovery document %v", err)
	}
	return doc.JWKSURI, nil
}

// discoveryError says that it was not the key set that could not be had.
type discoveryError struct{ err error }

func (e *discoveryError) Error() string { return "discovery: " + e.err.Error() }
func (e *discoveryError) Unwrap() error { return e.err }

// client makes a client that uses no proxy, keeps no connection and follows no redirect.
func (k *remoteKeys) client() (*http.Client, error) {
	pool, err := certificates(k.at.caFile) // read each time, since it may have changed
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (k *remoteKeys) get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, told("the address is malformed")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	if k.at.tokenFile != "" {
		token, err := os.ReadFile(k.at.tokenFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := client.Do(req)
	if err != nil {
		// A *url.Error repeats the address, whose query may hold a secret.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, tell("status %d: redirects are not followed, give the address that it leads to", resp.StatusCode)
	case (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) && k.at.tokenFile == "":
		return nil, tell("status %d: it asks for credentials, see token_file", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, tell("status %d", resp.StatusCode)
	}
	return readAtMost(resp.Body, maxSetBytes)
}

// safeFetch says why a fetch failed in words that anybody may read: without addresses.
func safeFetch(err error) string {
	var (
		text    told
		network net.Error
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		expired x509.CertificateInvalidError
		what    string
	)
	switch {
	case errors.As(err, &text):
		what = string(text)
	case errors.As(err, &unknown):
		what = "its certificate is by an authority that is not known here, see ca_file"
	case errors.As(err, &name):
		what = "its certificate is for another name"
	case errors.As(err, &expired):
		what = "its certificate is not valid"
	case errors.As(err, &dns):
		what = "its name cannot be resolved"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		what = "no answer within " + fetchTimeout.String()
	default:
		what = "it cannot be reached"
	}
	var d *discoveryError
	if errors.As(err, &d) {
		return "discovery: " + what
	}
	return what
}

// newKeySource returns the source of a place, nil for none.
func newKeySource(at keyPlace, now func() time.Time, log *slog.Logger, loads *prometheus.CounterVec) (keySource, error) {
	base := loader{at: at, now: now, log: log, loads: loads}
	switch {
	case at.file != "":
		f := &fileKeys{loader: base}
		if err := f.open(); err != nil {
			return nil, fmt.Errorf("%sjwks_file: %w", at.key, err)
		}
		return f, nil
	case at.url != "" || at.discovery:
		return newRemoteKeys(base), nil
	}
	return nil, nil
}
