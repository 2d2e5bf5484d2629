package auth

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicehq/sluice/tasks"
)

// The words of [Refusal.Reason].
const (
	reasonMalformed   = "malformed"   // not a compact JWS, or its JSON cannot be read in one way alone
	reasonAlgorithm   = "algorithm"   // one that is not taken
	reasonType        = "type"        // typ says that it is another kind of token, or is missing
	reasonIssuer      = "issuer"      // no configured issuer has its iss
	reasonKey         = "key"         // no such key
	reasonSignature   = "signature"   // not made by that key
	reasonExpired     = "expired"     // exp
	reasonNotYet      = "not_yet"     // nbf or iat lies in the future
	reasonAudience    = "audience"    // meant for somebody else
	reasonLifetime    = "lifetime"    // exp - iat is too long
	reasonClaim       = "claim"       // one is missing or not of its form
	reasonTenant      = "tenant"      // the value is no tenant, or not a listed one
	reasonRequire     = "require"     // a claim has not the value that the configuration requires
	reasonUnavailable = "unavailable" // the issuer's keys cannot be fetched
	reasonRevoked     = "revoked"     // somebody has revoked it
	reasonRecord      = "record"      // it is of those that the server keeps, and has no record that says the same
	reasonProvider    = "provider"    // a provider's own key, sent by mistake
)

// Refusal is why a token is not accepted. It is [ErrInvalid], and [ErrUnavailable]
// as well where the issuer's keys could not be fetched, or tasks.ErrUnavailable where the
// [Ledger] could not be asked.
//
// Its text is a fixed phrase and holds nothing of the token. Reason and Issuer take
// few values, so they can label a metric.
type Refusal struct {
	// Reason is one word: malformed, algorithm, type, issuer, key, signature, expired,
	// not_yet, audience, lifetime, claim, tenant, require, unavailable,
	// revoked, record or provider.
	Reason string
	// Text says it in words.
	Text string
	// Issuer is whose rules the token was judged by, as the configuration writes it;
	// "" when no configured issuer has its iss.
	Issuer string
	// Signed is set when the signature is good: the token is the issuer's own.
	Signed bool
	// Algorithm and KeyID are what the header says, unproven; "" where it is malformed.
	Algorithm, KeyID string

	cause error // nil, ErrUnavailable, or of the ledger tasks.ErrUnavailable or tasks.ErrFull
}

// Tells reports whether Text may be told to the caller: its issuer wrote the token, or it
// is no token at all but a provider's key.
func (r *Refusal) Tells() bool { return r.Signed || r.Reason == reasonProvider }

func (r *Refusal) Error() string { return ErrInvalid.Error() + ": " + r.Text }

// Unwrap makes a refusal ErrInvalid.
func (r *Refusal) Unwrap() []error {
	if r.cause == nil {
		return []error{ErrInvalid}
	}
	return []error{ErrInvalid, r.cause}
}

// Attrs is the refusal for a line of the log: of the token it has the name of the
// algorithm and of the key, visible ASCII both, and no claim.
func (r *Refusal) Attrs() []slog.Attr {
	list := []slog.Attr{slog.String("refused", r.Reason), slog.String("why", r.Text)}
	for _, a := range []struct{ name, value string }{{"issuer", r.Issuer}, {"alg", r.Algorithm}, {"kid", r.KeyID}} {
		if a.value != "" {
			list = append(list, slog.String(a.name, a.value))
		}
	}
	return list
}

// reason is why a token is refused: one word of the list above, and a phrase that is
// a constant of this package, never a part of the token.
type reason struct{ code, text string }

func (r reason) Error() string { return r.text }

func malformed(text string) reason { return reason{reasonMalformed, text} }

// libraryReasons are what the JWT library finds, the gravest first.
func libraryReasons() []struct {
	err  error
	code string
	text string
} {
	return []struct {
		err  error
		code string
		text string
	}{
		{jwt.ErrTokenSignatureInvalid, reasonSignature, "the signature is not the key's"},
		{jwt.ErrTokenExpired, reasonExpired, "the token has expired"},
		{jwt.ErrTokenNotValidYet, reasonNotYet, "the token is not valid yet (nbf)"},
		{jwt.ErrTokenUsedBeforeIssued, reasonNotYet, "the token was issued in the future (iat): the clocks differ"},
		{jwt.ErrTokenInvalidIssuer, reasonIssuer, "another issuer's"},
		{jwt.ErrTokenInvalidAudience, reasonAudience, "the token is meant for another audience"},
		{jwt.ErrTokenRequiredClaimMissing, reasonClaim, "a required claim is missing"},
		{jwt.ErrTokenMalformed, reasonMalformed, "malformed"},
	}
}

// header is what of a JOSE header matters.
type header struct {
	alg, typ, kid string
	typed         bool // it has a typ
}

// refusal turns whatever went wrong into a [Refusal], which holds nothing of the
// token that the texts of the JSON and JWT readers might.
func refusal(err error, h header, issuer string) *Refusal {
	out := &Refusal{
		Reason: reasonMalformed, Text: "refused", Issuer: issuer, Algorithm: h.alg, KeyID: h.kid,
		Signed: errors.Is(err, jwt.ErrTokenInvalidClaims),
	}
	if errors.Is(err, ErrUnavailable) {
		out.Reason, out.Text, out.cause = reasonUnavailable, ErrUnavailable.Error(), ErrUnavailable
		return out
	}
	if errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull) {
		out.Reason, out.Text, out.cause = reasonUnavailable, "whether it was revoked cannot be asked", err
		return out
	}
	for _, known := range libraryReasons() {
		if errors.Is(err, known.err) {
			out.Reason, out.Text = known.code, known.text
			break
		}
	}
	// What this package found itself is more to the point than that a claim is
	// missing; that the token has expired comes before either.
	var own reason
	if errors.As(err, &own) && (out.Text == "refused" || out.Reason == reasonClaim || out.Reason == reasonMalformed) {
		out.Reason, out.Text = own.code, own.text
	}
	return out
}

// told is an error of ours whose text anybody may read: it has no address, user or key.
type told string

func (t told) Error() string { return string(t) }

func tell(format string, args ...any) told { return told(fmt.Sprintf(format, args...)) }
