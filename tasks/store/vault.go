package store

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/seal"
)

var (
	sealKeyScript  = script("seal_key")
	sealWrapScript = script("seal_wrap")
)

// What is content, by the purpose that it is sealed for. Behind it stand the tenant and the
// id of what it is of.
const (
	ofPrompt   = "prompt"
	ofResult   = "result"
	ofOutcome  = "outcome"      // with an error, which may quote
	ofCaller   = "caller"       // metadata and custom_id
	ofURL      = "webhook_url"  // of a job
	ofText     = "text"         // a piece; behind the id its call and its offset
	ofEvents   = "events"       // likewise
	ofAnswer   = "answer"       // kept under a digest
	ofFirst    = "first answer" // kept under an Idempotency-Key
	ofKey      = "key"          // an Idempotency-Key
	ofPrint    = "fingerprint"  // of a request
	ofBatch    = "batch"        // a fingerprint of one
	ofCall     = "call"         // a digest of one
	ofMetadata = "metadata"     // a pair that is searched for
	ofHost     = "host"         // of a job's own URL
	ofDelivery = "delivery"     // a body
	ofReceiver = "receiver"     // what one said
	ofEndpoint = "endpoint"     // behind the id the field
	ofSecrets  = "signing"      // likewise
	ofDocument = "document"
	ofContent  = "content" // of a document; behind the id its place
	ofSpill    = "spill"
	ofBody     = "body" // elsewhere; behind the id what it is, and of a file its place
)

// vault seals and opens content, with the key of its tenant. It is the one place where
// that is done. Without master keys all of it is written in plain.
type vault struct {
	ring  *seal.Ring // nil: none
	seals bool
	s     *Store // for its Redis
	begun time.Time

	mu      sync.RWMutex
	held    map[string]*heldKey
	missing map[string]time.Time // master keys that are not there, and when one was needed last
}

// heldKey is a tenant's key that is at hand.
type heldKey struct {
	key   *seal.Key
	asked atomic.Int64 // when Redis was asked, which said that it is there; see now
	used  atomic.Int64
}

// now is how many ns the vault is old: a clock that nobody sets.
func (v *vault) now() int64 { return int64(v.s.clock().Sub(v.begun)) }

// keyFreshFor is how long a key is used of which nobody has said since that it is still there.
const keyFreshFor = time.Second

// fresh reports whether a key need not be asked for again now. [Store.TendKeys] asks for all
// that are in use.
func (h *heldKey) fresh(now int64) bool {
	h.used.Store(now)
	return now-h.asked.Load() < int64(keyFreshFor)
}

// seal returns what stands in the place of a value. Nothing stays nothing.
func (v *vault) seal(ctx context.Context, tenant string, value []byte, what string, of ...string) ([]byte, error) {
	return v.by(ctx, (*seal.Key).Seal, tenant, value, what, of)
}

// sealSame is seal, and what is sealed again looks as it did before.
func (v *vault) sealSame(ctx context.Context, tenant string, value []byte, what string, of ...string) ([]byte, error) {
	return v.by(ctx, (*seal.Key).SealSame, tenant, value, what, of)
}

// by seals in one of these two ways.
func (v *vault) by(ctx context.Context, way func(k *seal.Key, value []byte, purpose ...string) []byte, tenant string, value []byte, what string, of []string) ([]byte, error) {
	if !v.seals || len(value) == 0 {
		return value, nil
	}
	k, err := v.key(ctx, tenant, true)
	if err != nil {
		return nil, err
	}
	return way(k, value, purpose(what, tenant, of)...), nil
}

// errNoKeys is what a process without keys says of what others have sealed.
var errNoKeys = errors.New("it is sealed, and seal.keys lists no key")

// open returns the value that seal was given. What is not sealed is returned as it is. So is,
// without keys, a part of a file, which may look like it: of all else no plain value does.
func (v *vault) open(ctx context.Context, tenant string, value []byte, what string, of ...string) ([]byte, error) {
	if !seal.Sealed(value) || v.ring == nil && (what == ofContent || what == ofBody && of[1] == string(bodies.File)) {
		return value, nil
	}
	k, err := v.key(ctx, tenant, false)
	if err != nil {
		return nil, err
	}
	plain, err := k.Open(value, purpose(what, tenant, of)...)
	var foreign *seal.ForeignError
	if errors.As(err, &foreign) { // it may be that this process has not heard of a new key
		if k, err = v.ask(ctx, tenant, false); err != nil {
			return nil, err
		}
		plain, err = k.Open(value, purpose(what, tenant, of)...)
	}
	if err != nil {
		return nil, &tasks.SealError{Err: fmt.Errorf("open the %s of %s: %w", what, strings.Join(of, " "), err)}
	}
	return plain, nil
}

func purpose(what, tenant string, of []string) []string {
	return append(append(make([]string, 0, 2+len(of)), what, tasks.TenantOf(tenant)), of...)
}

// sealedText begins a sealed value that stands in text.
const sealedText = "sealed:"

// sealText is seal of what stands in JSON or is sent as a name's argument.
func (v *vault) sealText(ctx context.Context, tenant, value, what string, of ...string) (string, error) {
	if !v.seals || value == "" {
		return value, nil
	}
	b, err := v.seal(ctx, tenant, []byte(value), what, of...)
	return sealedText + base64.RawURLEncoding.EncodeToString(b), err
}

// openText returns the value that sealText was given. Without keys only of a secret, which we
// have made, it is known that it is sealed: what a caller or a receiver wrote may look like it.
func (v *vault) openText(ctx context.Context, tenant, value, what string, of ...string) (string, error) {
	rest, is := strings.CutPrefix(value, sealedText)
	switch {
	case !is, v.ring == nil && what != ofSecrets:
		return value, nil
	case v.ring == nil:
		return "", &tasks.SealError{Err: errNoKeys}
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil || !seal.Sealed(b) {
		return value, nil
	}
	b, err = v.open(ctx, tenant, b, what, of...)
	return string(b), err
}

// name is what stands for something that scripts compare: it tells nobody what it is of.
func (v *vault) name(ctx context.Context, tenant, what, value string) (string, error) {
	if !v.seals || value == "" {
		return value, nil
	}
	k, err := v.key(ctx, tenant, true)
	if err != nil {
		return "", err
	}
	return k.Name(what, value), nil
}

// names is name for what may have been written before sealing was switched, on or off: the
// other name follows behind a line's end (reserved in lua/operation.lua). The key is made also
// where nothing is sealed: one that is not there would be asked for each time, since another
// process may make it just now.
func (v *vault) names(ctx context.Context, tenant, what, value string) (string, error) {
	if v.ring == nil || value == "" {
		return value, nil
	}
	k, err := v.key(ctx, tenant, true)
	var sealed *tasks.SealError
	switch {
	case !v.seals && (errors.As(err, &sealed) || errors.Is(err, tasks.ErrFull)):
		return value, nil // nothing of this tenant was ever sealed, or nobody here can tell
	case err != nil:
		return "", err
	case v.seals:
		return k.Name(what, value) + "\n" + value, nil
	}
	return value + "\n" + k.Name(what, value), nil
}

// pair is what stands in an envelope for a pair of metadata, in sealed and plain mode alike;
// "": the tenant has nothing sealed.
func (v *vault) pair(ctx context.Context, tenant, name, value string) (string, error) {
	if v.ring == nil {
		return "", nil
	}
	k, err := v.key(ctx, tenant, v.seals)
	var sealed *tasks.SealError
	if errors.As(err, &sealed) && !v.seals {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return k.Name(ofMetadata, name, value)[:pairSize], nil
}

// pairSize is how many letters, of six bits each, tell pairs of a tenant apart.
const pairSize = 12

// atHand marks the context of who must not wait for a key: what is not at hand is errNotAtHand.
type atHand struct{}

var errNotAtHand = errors.New("the key of a tenant would have to be asked for")

// key returns a tenant's key, which is made where there is none and make is set. It is asked
// for again when it may have been deleted by another process.
func (v *vault) key(ctx context.Context, tenant string, make bool) (*seal.Key, error) {
	tenant = tasks.TenantOf(tenant)
	v.mu.RLock()
	h := v.held[tenant]
	v.mu.RUnlock()
	if h != nil && h.fresh(v.now()) {
		return h.key, nil
	}
	if ctx.Value(atHand{}) != nil {
		return nil, errNotAtHand
	}
	k, err := v.ask(ctx, tenant, make)
	var sealed *tasks.SealError
	if h != nil && err != nil && !errors.As(err, &sealed) {
		return h.key, nil // Redis is away; what is kept on the disk meanwhile is sealed, too
	}
	return k, err
}

// ready has a tenant's key at hand where the store seals: what is begun for that tenant can be
// written to its end.
func (v *vault) ready(ctx context.Context, tenant string) error {
	if !v.seals {
		return nil
	}
	_, err := v.key(ctx, tenant, true)
	return err
}

// needs notes that the keys of some jobs' tenants will be needed, however long their calls
// take: else what an answer is sealed with, for the disk while Redis is away, might not be at hand.
func (v *vault) needs(held []tasks.Ticket) {
	if !v.seals {
		return
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, t := range held {
		if h := v.held[tasks.TenantOf(t.Tenant)]; h != nil {
			h.used.Store(v.now())
		}
	}
}

// keyWithin is how long a key may take to be read or made.
const keyWithin = 5 * time.Second

// ask asks Redis for a tenant's key. It goes in no round trip of others: what the caller
// sends next has its place there.
func (v *vault) ask(caller context.Context, tenant string, make bool) (*seal.Key, error) {
	if v.ring == nil {
		return nil, &tasks.SealError{Err: errNoKeys}
	}
	if caller.Value(atHand{}) != nil {
		return nil, errNotAtHand
	}
	tenant = tasks.TenantOf(tenant)
	at := v.now() // what was deleted since may be in the answer
	ctx, cancel := context.WithTimeout(context.Background(), keyWithin)
	defer cancel()
	defer context.AfterFunc(caller, cancel)()
	fields, err := v.s.rdb.HMGet(ctx, v.s.keys.sealKey(tenant), "id", "m", "w").Result()
	if err != nil {
		return nil, fmt.Errorf("read the key of a tenant: %w", redisError(err))
	}
	w := wrappedOf(words(fields))
	switch {
	case w.ID == "" && !make:
		v.mu.Lock()
		delete(v.held, tenant)
		v.mu.Unlock()
		return nil, &tasks.SealError{Err: errors.New("its tenant's key was deleted, or never was")}
	case w.ID == "":
		if w, err = v.made(ctx, tenant); err != nil {
			return nil, fmt.Errorf("make the key of a tenant: %w", err)
		}
	}
	return v.hold(tenant, w, at)
}

// made is a new key of a tenant, or the one that another process has made meanwhile. A tenant
// that is being deleted gets none: it would stay behind.
func (v *vault) made(ctx context.Context, tenant string) (seal.Wrapped, error) {
	everybody, err := v.everybody(ctx)
	if err != nil {
		return seal.Wrapped{}, err
	}
	_, made, err := v.ring.Make(tenant, everybody)
	if err != nil {
		return seal.Wrapped{}, err
	}
	said, err := v.s.run(ctx, sealKeyScript, args{"tenant": tenant, "id": made.ID, "master": made.Master}, made.Key).StringSlice()
	if err != nil {
		return seal.Wrapped{}, err
	}
	if said[0] == "leaving" {
		v.mu.Lock()
		delete(v.held, tenant)
		v.mu.Unlock()
		return seal.Wrapped{}, &tasks.SealError{Err: tasks.ErrLeaving}
	}
	return wrappedOf(said), nil
}

// hold has a tenant's key at hand that was asked for at a time.
func (v *vault) hold(tenant string, w seal.Wrapped, at int64) (*seal.Key, error) {
	v.mu.RLock()
	h := v.held[tenant]
	v.mu.RUnlock()
	if h != nil && h.key.ID() == w.ID {
		h.asked.Store(max(at, h.asked.Load()))
		return h.key, nil
	}
	k, err := v.ring.Unwrap(tenant, w)
	v.mu.Lock()
	defer v.mu.Unlock()
	var missing *seal.MissingError
	if errors.As(err, &missing) {
		v.missing[missing.Master] = v.s.clock()
	}
	if err != nil {
		delete(v.held, tenant)
		return nil, &tasks.SealError{Key: w.Master, Err: err}
	}
	h = &heldKey{key: k}
	h.asked.Store(at)
	h.used.Store(at)
	v.held[tenant] = h
	return k, nil
}

func wrappedOf(fields []string) seal.Wrapped {
	return seal.Wrapped{ID: fields[0], Master: fields[1], Key: []byte(fields[2])}
}

// Pieces of what comes bit by bit lie one behind the other, each behind its length in four
// bytes, and begin with two that begin no text.
const (
	pieceHead = 6
	pieceMost = 32 << 10 // bytes of what is in one
)

// sealPieces is seal of a part of what comes bit by bit, from a place on where it will stand.
func (v *vault) sealPieces(ctx context.Context, tenant string, part []byte, at int, what string, of ...string) ([]byte, error) {
	if !v.seals {
		return part, nil
	}
	var out []byte
	for some := range slices.Chunk(part, pieceMost) {
		b, err := v.seal(ctx, tenant, some, what, append(of, fmt.Sprint(at+len(out)))...)
		if err != nil {
			return nil, err
		}
		out = append(out, 0xff, 0)
		out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
		out = append(out, b...)
	}
	return out, nil
}

// openPieces opens as many pieces as are whole, of which the first stands at a place, and
// says how many bytes they take. What is not sealed is returned as it is.
func (v *vault) openPieces(ctx context.Context, tenant string, b []byte, at int, what string, of ...string) (plain []byte, size int, err error) {
	if len(b) == 0 || b[0] != 0xff {
		return b, len(b), nil
	}
	for {
		rest := b[size:]
		if len(rest) < pieceHead {
			return plain, size, nil
		}
		n := int(binary.BigEndian.Uint32(rest[2:]))
		if n > len(rest)-pieceHead {
			return plain, size, nil
		}
		one, err := v.open(ctx, tenant, rest[pieceHead:pieceHead+n], what, append(of, fmt.Sprint(at+size))...)
		if err != nil {
			return nil, 0, err
		}
		if !seal.Sealed(rest[pieceHead : pieceHead+n]) {
			return nil, 0, &tasks.SealError{Err: fmt.Errorf("open the %s of %s: %w", what, strings.Join(of, " "), seal.ErrOpen)}
		}
		plain, size = append(plain, one...), size+pieceHead+n
	}
}

// Sealed is what stands on a disk in the place of a value of a tenant; Opened is that value.
func (s *Store) Sealed(ctx context.Context, tenant, id string, value []byte) ([]byte, error) {
	return s.vault.seal(ctx, tenant, value, ofSpill, id)
}

// Opened returns what Sealed was given.
func (s *Store) Opened(ctx context.Context, tenant, id string, value []byte) ([]byte, error) {
	return s.vault.open(ctx, tenant, value, ofSpill, id)
}
