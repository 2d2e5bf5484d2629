package auth

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxSetBytes  = 1 << 20
	maxKeys      = 100
	minRSABits   = 2048 // RFC 7518 section 3.3
	maxRSABits   = 8192 // verification time grows with the square
	fetchTimeout = 5 * time.Second
	refreshAfter = 15 * time.Minute // a key taken out of the set is honoured no longer than this
	retryAfter   = 10 * time.Second // between two fetches, whatever asks for them
	dropAfter    = 24 * time.Hour   // an address that cannot be reached vouches for nothing
)

// keySource finds a public key by its name.
type keySource interface {
	find(ctx context.Context, kid string) (verifyKey, error)
}

// newKeySource returns the source that the configuration names, nil for none.
func newKeySource(c Config, loads *prometheus.CounterVec) (keySource, error) {
	switch {
	case c.JWKSFile != "":
		f := &fileKeys{path: c.JWKSFile, now: c.Now, log: c.Log, loads: loads}
		if err := f.open(); err != nil {
			return nil, fmt.Errorf("auth.jwks_file: %w", err)
		}
		return f, nil
	case c.JWKSURL != "":
		u, err := newURLKeys(c.JWKSURL, c.HTTPClient, c.Now, c.Log, loads)
		if err != nil {
			return nil, fmt.Errorf("auth.jwks_url: %w", err)
		}
		return u, nil
	}
	return nil, nil
}

// verifyKey is a public key and the only algorithm that it is for.
type verifyKey struct {
	alg    string
	public any
}

// jwk is a member of a key set (RFC 7517, RFC 7518 section 6, RFC 8037).
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	D      string   `json:"d"`
	K      string   `json:"k"`
}

// parseKeys reads a key set. Keys of other kinds and for other uses are passed
// over, as RFC 7517 section 5 asks; a malformed key, one that gives a secret away, or a
// kid that names two keys spoils the whole set.
func parseKeys(text []byte) (map[string]verifyKey, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	// The text of a JSON error could quote the set, and a set may wrongly hold a secret.
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set, or a member is named twice")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, at most %d are read", len(set.Keys), maxKeys)
	}
	keys := make(map[string]verifyKey)
	for i, k := range set.Keys {
		if k.D != "" || k.K != "" {
			return nil, fmt.Errorf("keys[%d]: a private or symmetric key does not belong here", i)
		}
		if k.Use != "" && k.Use != "sig" || len(k.KeyOps) > 0 && !slices.Contains(k.KeyOps, "verify") {
			continue
		}
		key, err := k.publicKey()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if key.public == nil {
			continue
		}
		if !validKid(k.Kid) {
			return nil, fmt.Errorf("keys[%d]: kid must be 1 to 128 visible ASCII characters", i)
		}
		if _, twice := keys[k.Kid]; twice {
			return nil, fmt.Errorf("keys[%d]: its kid names an earlier key too", i)
		}
		keys[k.Kid] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("no key for RS256, ES256 or EdDSA")
	}
	return keys, nil
}

// publicKey returns the key, or none when it is of a kind that is not used here.
func (k jwk) publicKey() (verifyKey, error) {
	switch {
	case k.Kty == "RSA" && (k.Alg == "" || k.Alg == algRS256):
		return k.rsaKey()
	case k.Kty == "EC" && k.Crv == "P-256" && (k.Alg == "" || k.Alg == algES256):
		return k.ecKey()
	case k.Kty == "OKP" && k.Crv == "Ed25519" && (k.Alg == "" || k.Alg == algEdDSA || k.Alg == "Ed25519"): // RFC 9864
		x, err := octets("x", k.X)
		if err == nil && len(x) != ed25519.PublicKeySize {
			err = fmt.Errorf("x must be %d bytes", ed25519.PublicKeySize)
		}
		return verifyKey{algEdDSA, ed25519.PublicKey(x)}, err
	}
	return verifyKey{}, nil
}

func (k jwk) rsaKey() (verifyKey, error) {
	n, errN := octets("n", k.N)
	e, errE := octets("e", k.E)
	if err := cmp.Or(errN, errE); err != nil {
		return verifyKey{}, err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return verifyKey{}, fmt.Errorf("n: %d bits, between %d and %d are accepted", bits, minRSABits, maxRSABits)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Bit(0) == 0 || modulus.Bit(0) == 0 {
		return verifyKey{}, errors.New("n or e cannot be of an RSA key")
	}
	return verifyKey{algRS256, &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}}, nil
}

func (k jwk) ecKey() (verifyKey, error) {
	x, errX := octets("x", k.X)
	y, errY := octets("y", k.Y)
	if err := cmp.Or(errX, errY); err != nil {
		return verifyKey{}, err
	}
	if len(x) != 32 || len(y) != 32 { // RFC 7518 section 6.2.1.2: full size
		return verifyKey{}, errors.New("x and y must be 32 bytes")
	}
	point := slices.Concat([]byte{4}, x, y) // SEC 1 section 2.3.3: 4 says uncompressed
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return verifyKey{}, errors.New("x and y are not on the curve")
	}
	return verifyKey{algES256, key}, nil
}

// octets decodes a member's base64url as RFC 7515 section 2 wants it: no padding,
// no line breaks.
func octets(name, s string) ([]byte, error) {
	for i := range len(s) {
		if !base64URL(s[i]) {
			return nil, fmt.Errorf("%s: not base64url", name)
		}
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s: missing or not base64url", name)
	}
	return b, nil
}

// fileKeys is a key set in a file, read again when the file is another one.
type fileKeys struct {
	path  string
	now   func() time.Time
	log   *slog.Logger
	loads *prometheus.CounterVec

	mu     sync.Mutex
	info   os.FileInfo // of the file as it was read last, usable or not
	readAt time.Time
	missed bool // the file was gone when looked at last
	keys   map[string]verifyKey
}

// open reads the file for the first time, when a fault is still an error.
func (f *fileKeys) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read()
}

func (f *fileKeys) find(_ context.Context, kid string) (verifyKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if info, err := os.Stat(f.path); err != nil {
		if !f.missed {
			f.log.Error("read key set", "config", "auth.jwks_file", "error", err)
		}
		f.missed = true
	} else if f.missed || f.changed(info) {
		f.missed = false
		if err := f.read(); err != nil {
			f.log.Error("read key set", "config", "auth.jwks_file", "error", err)
		} else {
			f.log.Info("read key set", "config", "auth.jwks_file", "keys", len(f.keys))
		}
	}
	if k, ok := f.keys[kid]; ok {
		return k, nil
	}
	return verifyKey{}, reason("no such key")
}

// changed reports whether the file may differ from what was read. File times are
// coarse, so a file that was young when it was read may have changed unseen.
func (f *fileKeys) changed(info os.FileInfo) bool {
	return f.info == nil || !os.SameFile(info, f.info) || info.Size() != f.info.Size() ||
		!info.ModTime().Equal(f.info.ModTime()) ||
		f.readAt.Sub(info.ModTime()) < 100*time.Millisecond && f.now().Sub(f.readAt) >= 100*time.Millisecond
}

func (f *fileKeys) read() (err error) {
	defer func() { count(f.loads, err) }()
	f.readAt = f.now()
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	if f.info, err = file.Stat(); err != nil {
		return err
	}
	text, err := readSet(file)
	if err != nil {
		return err
	}
	keys, err := parseKeys(text)
	if err != nil {
		return err
	}
	f.keys = keys
	return nil
}

// urlKeys is a key set at an address. Whoever needs it fetches it, one at a time;
// there is no goroutine.
type urlKeys struct {
	url    string
	client *http.Client
	now    func() time.Time
	log    *slog.Logger
	loads  *prometheus.CounterVec

	turn  chan struct{} // holds one token, taken by whoever fetches
	tried time.Time     // of the last fetch; guarded by turn
	set   atomic.Pointer[fetchedSet]
}

type fetchedSet struct {
	keys map[string]verifyKey
	at   time.Time
}

func newURLKeys(address string, client *http.Client, now func() time.Time, log *slog.Logger, loads *prometheus.CounterVec) (*urlKeys, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("must be an absolute https address without user and fragment")
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return nil, errors.New("must be https, or http on a loopback address: whoever can change it in transit can sign tokens")
	}
	var own http.Client
	if client != nil {
		own = *client
	} else {
		own.Transport = &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true}
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	k := &urlKeys{url: address, client: &own, now: now, log: log, loads: loads, turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	return k, nil
}

func (u *urlKeys) find(ctx context.Context, kid string) (verifyKey, error) {
	before := u.set.Load()
	key, ok, age := u.look(before, kid)
	switch {
	case ok && age < refreshAfter:
		return key, nil
	case ok && age < dropAfter:
		// One caller refreshes; the others go on with what there is.
		select {
		case <-u.turn:
			u.refresh(ctx, before)
		default:
		}
	default:
		select {
		case <-u.turn:
			u.refresh(ctx, before)
		case <-ctx.Done():
			return verifyKey{}, ErrUnavailable
		}
	}
	set := u.set.Load()
	key, ok, age = u.look(set, kid)
	switch {
	case set == nil || age >= dropAfter:
		return verifyKey{}, ErrUnavailable
	case !ok:
		return verifyKey{}, reason("no such key")
	}
	return key, nil
}

func (u *urlKeys) look(set *fetchedSet, kid string) (key verifyKey, ok bool, age time.Duration) {
	if set == nil {
		return verifyKey{}, false, 0
	}
	key, ok = set.keys[kid]
	return key, ok, u.now().Sub(set.at)
}

// refresh fetches the set unless somebody did since before was read, or tried
// just now. The caller has the turn, and refresh gives it back.
func (u *urlKeys) refresh(ctx context.Context, before *fetchedSet) {
	defer func() { u.turn <- struct{}{} }()
	if u.set.Load() != before || !u.tried.IsZero() && u.now().Sub(u.tried) < retryAfter {
		return
	}
	u.tried = u.now()
	// Others wait for this fetch, so it does not end with the request that began it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	keys, err := u.fetch(ctx)
	count(u.loads, err)
	if err != nil {
		u.log.Error("fetch key set", "config", "auth.jwks_url", "error", err)
		return
	}
	u.set.Store(&fetchedSet{keys: keys, at: u.tried})
	if before == nil || len(before.keys) != len(keys) {
		u.log.Info("fetched key set", "config", "auth.jwks_url", "keys", len(keys))
	}
}

func (u *urlKeys) fetch(ctx context.Context) (map[string]verifyKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url, nil)
	if err != nil {
		return nil, errors.New("the address is malformed")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := u.client.Do(req)
	if err != nil {
		// A *url.Error repeats the address, whose query may hold a secret.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	text, err := readSet(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseKeys(text)
}

// readSet reads a key set of at most maxSetBytes.
func readSet(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSetBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSetBytes {
		return nil, fmt.Errorf("larger than %d bytes", maxSetBytes)
	}
	return text, nil
}

func count(loads *prometheus.CounterVec, err error) {
	if err != nil {
		loads.WithLabelValues("error").Inc()
		return
	}
	loads.WithLabelValues("ok").Inc()
}
