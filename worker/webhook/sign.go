package webhook

import (
	"cmp"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The prefixes of the three kinds of key, as the specification shows them.
const (
	secretPrefix  = "whsec_"
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"
)

// A symmetric secret is 24 to 64 random bytes.
const (
	minSecretBytes = 24
	maxSecretBytes = 64
	newSecretBytes = 32
)

// The signature schemes, by the version that stands before a signature.
const (
	versionHMAC    = "v1"  // HMAC-SHA256
	versionEd25519 = "v1a" // Ed25519
)

// Key signs deliveries: a [Secret] or a [PrivateKey].
type Key interface {
	version() string
	sign(message []byte) []byte
	usable() bool
}

// VerifyKey checks signatures: a [Secret] or a [PublicKey].
type VerifyKey interface {
	version() string
	check(message, signature []byte) bool
	usable() bool
}

// Secret is a symmetric signing secret. It shows itself to nobody but a caller
// of [Secret.Reveal]: printing, logging and marshalling give a placeholder or an error.
// The zero Secret signs and verifies nothing.
type Secret struct{ key []byte }

// NewSecret returns a fresh secret of 32 random bytes.
func NewSecret() Secret {
	key := make([]byte, newSecretBytes)
	rand.Read(key) // never fails: crypto/rand ends the program rather than return an error
	return Secret{key}
}

// ParseSecret reads a secret in its whsec_ form. It refuses one of fewer than 24
// or more than 64 bytes, an empty one above all: HMAC with an empty key is a
// signature that anybody can make. The error never quotes the input.
func ParseSecret(s string) (Secret, error) {
	key, err := decodeKey(s, secretPrefix)
	if err != nil {
		return Secret{}, fmt.Errorf("read signing secret: %w", err)
	}
	if len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return Secret{}, fmt.Errorf("read signing secret: %d bytes, want %d to %d", len(key), minSecretBytes, maxSecretBytes)
	}
	return Secret{key}, nil
}

// Reveal returns the secret in its whsec_ form, to be stored encrypted or shown
// once to its owner.
func (s Secret) Reveal() string { return secretPrefix + base64.StdEncoding.EncodeToString(s.key) }

// String returns a placeholder.
func (s Secret) String() string { return secretPrefix + "[redacted]" }

// Format writes the placeholder for every verb, %d and %#v among them.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue is the placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText always fails: what is stored must be chosen by calling Reveal.
func (s Secret) MarshalText() ([]byte, error) { return nil, errMarshalKey }

func (s Secret) version() string { return versionHMAC }
func (s Secret) usable() bool    { return len(s.key) >= minSecretBytes }

func (s Secret) sign(message []byte) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(message)
	return mac.Sum(nil)
}

func (s Secret) check(message, signature []byte) bool {
	return s.usable() && hmac.Equal(s.sign(message), signature)
}

// PrivateKey is an Ed25519 signing key. It shows itself no more than a Secret
// does. The zero PrivateKey signs nothing.
type PrivateKey struct{ key ed25519.PrivateKey }

// NewPrivateKey returns a fresh Ed25519 key.
func NewPrivateKey() PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	return PrivateKey{ed25519.NewKeyFromSeed(seed)}
}

// ParsePrivateKey reads a key in its whsk_ form: 64 bytes, the seed and the
// public key. A key whose halves do not belong together is refused, because
// signing with it gives the private half away.
func ParsePrivateKey(s string) (PrivateKey, error) {
	key, err := decodeKey(s, privatePrefix)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("read signing key: %w", err)
	}
	if len(key) != ed25519.PrivateKeySize {
		return PrivateKey{}, fmt.Errorf("read signing key: %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	whole := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
	if !hmac.Equal(whole, key) {
		return PrivateKey{}, errors.New("read signing key: its public half belongs to another key")
	}
	return PrivateKey{whole}, nil
}

// Public returns the key that receivers verify with.
func (k PrivateKey) Public() PublicKey {
	if !k.usable() {
		return PublicKey{}
	}
	return PublicKey{k.key.Public().(ed25519.PublicKey)}
}

// Reveal returns the key in its whsk_ form.
func (k PrivateKey) Reveal() string { return privatePrefix + base64.StdEncoding.EncodeToString(k.key) }

// String returns a placeholder.
func (k PrivateKey) String() string { return privatePrefix + "[redacted]" }

// Format writes the placeholder for every verb.
func (k PrivateKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue is the placeholder.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText always fails: what is stored must be chosen by calling Reveal.
func (k PrivateKey) MarshalText() ([]byte, error) { return nil, errMarshalKey }

func (k PrivateKey) version() string            { return versionEd25519 }
func (k PrivateKey) usable() bool               { return len(k.key) == ed25519.PrivateKeySize }
func (k PrivateKey) sign(message []byte) []byte { return ed25519.Sign(k.key, message) }

// PublicKey verifies what a PrivateKey signed. It is no secret. The zero
// PublicKey verifies nothing.
type PublicKey struct{ key ed25519.PublicKey }

// ParsePublicKey reads a key in its whpk_ form, 32 bytes.
func ParsePublicKey(s string) (PublicKey, error) {
	key, err := decodeKey(s, publicPrefix)
	if err != nil {
		return PublicKey{}, fmt.Errorf("read verification key: %w", err)
	}
	if len(key) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("read verification key: %d bytes, want %d", len(key), ed25519.PublicKeySize)
	}
	return PublicKey{key}, nil
}

// String returns the key in its whpk_ form.
func (k PublicKey) String() string { return publicPrefix + base64.StdEncoding.EncodeToString(k.key) }

func (k PublicKey) version() string { return versionEd25519 }
func (k PublicKey) usable() bool    { return len(k.key) == ed25519.PublicKeySize }

func (k PublicKey) check(message, signature []byte) bool {
	return k.usable() && ed25519.Verify(k.key, message, signature)
}

// Sign returns the value of the webhook-signature header for one attempt: one
// entry a key, separated by spaces. Entries keep the order of keys, so the
// current key stands before the one it replaces, but every v1 stands before every
// v1a, because an old receiver may look at the first entry alone. Keys that are
// zero are left out. What id may be, see [ValidID]; at is the time of the attempt.
func Sign(id string, at time.Time, body []byte, keys ...Key) string {
	usable := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k == nil || !k.usable() })
	slices.SortStableFunc(usable, func(a, b Key) int { return cmp.Compare(a.version(), b.version()) })
	message := signedMessage(id, at.Unix(), body)
	entries := make([]string, len(usable))
	for i, k := range usable {
		entries[i] = k.version() + "," + base64.StdEncoding.EncodeToString(k.sign(message))
	}
	return strings.Join(entries, " ")
}

// ValidID reports whether id may be a webhook-id: 1 to 128 of the characters
// A-Z a-z 0-9 _ and -. A full stop must not stand in it, for it separates the
// parts that are signed: an id that ends in ".1700000000" could be read as a
// shorter id with another time.
func ValidID(id string) bool {
	if len(id) == 0 || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if !isIDByte(id[i]) {
			return false
		}
	}
	return true
}

func isIDByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// signedMessage is what every scheme signs: the id, the time in Unix seconds and
// the body, with full stops between them.
func signedMessage(id string, unix int64, body []byte) []byte {
	message := make([]byte, 0, len(id)+len(body)+24)
	message = append(message, id...)
	message = append(message, '.')
	message = strconv.AppendInt(message, unix, 10)
	message = append(message, '.')
	return append(message, body...)
}

var errMarshalKey = errors.New("a signing key is not marshalled; call Reveal where it is meant to be seen")

// decodeKey takes the prefix off and decodes canonical base64 only, so that one
// key has one spelling.
func decodeKey(s, prefix string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return nil, fmt.Errorf("does not begin with %s", prefix)
	}
	key, ok := decodeCanonical(text)
	if !ok {
		return nil, errors.New("not standard base64 with padding")
	}
	return key, nil
}

// decodeCanonical decodes standard base64 with padding. Go's decoder skips line
// breaks; a text with any is refused.
func decodeCanonical(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return b, err == nil
}
