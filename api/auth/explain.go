package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Finding is one thing that was looked at in a token.
type Finding struct {
	About string // one word, as signature
	Good  bool
	// Text says what was found. It quotes the token, so it is for whoever holds it and
	// not for a log.
	Text string
}

// Explain judges a token as [Verifier.Verify] does and tells the fate of each part of
// it, also after the first fault. It counts nothing. The error is Verify's.
func (v *Verifier) Explain(ctx context.Context, raw string) ([]Finding, Claims, error) {
	claims, refused := v.verify(ctx, raw)
	e := &explanation{now: v.now()}
	e.tell(ctx, v, raw)
	if refused == nil {
		return e.list, claims, nil
	}
	if !slices.ContainsFunc(e.list, func(f Finding) bool { return !f.Good }) {
		e.bad("token", "%s", refused.Text)
	}
	return e.list, Claims{}, refused
}

type explanation struct {
	now  time.Time
	list []Finding
}

func (e *explanation) good(about, format string, args ...any) {
	e.list = append(e.list, Finding{about, true, fmt.Sprintf(format, args...)})
}

func (e *explanation) bad(about, format string, args ...any) {
	e.list = append(e.list, Finding{about, false, fmt.Sprintf(format, args...)})
}

func (e *explanation) tell(ctx context.Context, v *Verifier, raw string) {
	h, err := readHeader(raw)
	if err != nil {
		e.bad("header", "%v", err)
		return
	}
	e.good("header", "alg %q, kid %q, typ %q", h.alg, h.kid, h.typ)
	r, err := v.rulesFor(raw)
	if err != nil {
		if iss, err := issuerOf(raw); err == nil {
			e.bad("issuer", "%q is none of those configured, %q: every letter counts, a slash at the end too", iss, v.names)
			return
		}
		e.bad("issuer", "%v", err)
		return
	}
	kind := "a foreign issuer of auth.issuers"
	if r.own {
		kind = "our own, auth.issuer"
	}
	e.good("issuer", "%q, %s", r.issuer, kind)
	if err := r.fits(raw, h); err != nil {
		e.bad("form", "%v", err)
	}
	e.signature(ctx, r, h, raw)
	e.claims(r, h.alg, raw)
}

// signature looks for the key and checks what it signed.
func (e *explanation) signature(ctx context.Context, r *rules, h header, raw string) {
	key, err := r.key(ctx, h)
	if err != nil {
		hint := ""
		switch {
		case h.alg == algHS256 && !r.own:
			hint = ": a foreign issuer's token is never verified with a shared secret"
		case h.alg == algHS256:
			hint = ": auth.hmac_secret is not set"
		case r.keys == nil:
			hint = ": no key set is configured for this issuer"
		case errors.Is(err, ErrUnavailable):
			if s := r.keys.state(); s.Cause != nil {
				hint = ": " + s.Cause.Error()
			}
		}
		e.bad("key", "%v%s", err, hint)
		return
	}
	e.good("key", "found")
	if r.keys != nil {
		for _, n := range r.keys.state().Notices {
			e.good("key", "note: %s", n)
		}
	}
	signed, tail := raw[:strings.LastIndexByte(raw, '.')], raw[strings.LastIndexByte(raw, '.')+1:]
	sig, err := jwt.NewParser(jwt.WithStrictDecoding()).DecodeSegment(tail)
	if err == nil {
		err = jwt.GetSigningMethod(h.alg).Verify(signed, sig, key)
	}
	if err != nil {
		e.bad("signature", "it was not made by that key: another key or secret has the same name, or the token was changed")
		return
	}
	e.good("signature", "made by that key")
}

// claims tells what each of the claims that matter says.
func (e *explanation) claims(r *rules, alg, raw string) {
	text, err := part(raw, 1)
	c := claimSet{by: &r.claimRules, alg: alg}
	if err == nil {
		err = c.UnmarshalJSON(text)
	}
	if err != nil {
		e.bad("claims", "%v", err)
		return
	}
	var faults []reason
	flatten(jwt.NewValidator(r.options(func() time.Time { return e.now })...).Validate(&c), &faults)
	about := func(name string, codes []string, format string, args ...any) {
		fact := fmt.Sprintf(format, args...)
		var wrong []string
		for _, f := range faults {
			if slices.Contains(codes, f.code) && !slices.Contains(wrong, f.text) {
				wrong = append(wrong, f.text)
			}
		}
		if len(wrong) > 0 {
			e.bad(name, "%s (%s)", strings.Join(wrong, "; "), fact)
			return
		}
		e.good(name, "%s", fact)
	}
	about("audience", []string{reasonAudience}, "claim %s is %q, one of %q is wanted", r.aud, []string(c.aud), r.audiences)
	about("times", []string{reasonExpired, reasonNotYet, reasonLifetime}, "issued %s, expires %s, now %s, leeway %s, lifetime at most %s",
		when(c.iat), when(c.exp), when(e.now), r.leeway, r.maxLifetime)
	for _, f := range faults {
		if f.code == reasonClaim || f.code == reasonIssuer || f.code == reasonMalformed {
			e.bad("claims", "%s", f.text)
		}
	}
	if c.sub != "" {
		e.good("subject", "%q, of claim %s", c.sub, r.sub)
	}
	if r.tenantIs != "" {
		about("tenant", nil, "%s, as every token of this issuer", r.tenantIs)
	} else {
		about("tenant", []string{reasonTenant}, "claim %s is %q, which is the tenant %q", r.tenant, c.shown(r.tenant), c.tenant)
	}
	for _, q := range r.require {
		met := slices.ContainsFunc(c.shown(q.path), func(s string) bool { return slices.Contains(q.values, s) })
		e.list = append(e.list, Finding{"require", met, fmt.Sprintf("claim %s is %q, one of %q is required", q.path, c.shown(q.path), q.values)})
	}
	e.scopes(r, &c)
	e.narrowed(modelsClaim, c.models)
	e.narrowed(poolsClaim, c.pools)
}

// narrowed says to what a claim narrows the token, if it does.
func (e *explanation) narrowed(claim string, globs []string) {
	if len(globs) > 0 {
		e.good(claim, "only %q", globs)
	}
}

func (e *explanation) scopes(r *rules, c *claimSet) {
	if r.scopeIs != nil {
		e.good("scope", "%q, as every token of this issuer", c.scopes)
		return
	}
	var texts []string
	for _, path := range r.scope {
		texts = append(texts, c.shown(path)...)
	}
	means := fmt.Sprintf("means %q", c.scopes)
	if len(c.scopes) == 0 {
		means = "means nothing here, so that every call is 403; see scopes and scope of auth.issuers"
	}
	e.good("scope", "claim %s is %q, which %s", strings.Join(r.scope, " and "), texts, means)
}

// shown are the texts of a claim; none where it is missing or of another form.
func (c *claimSet) shown(path string) []string {
	found := c.find(path)
	if len(found) != 1 {
		return nil
	}
	texts, _ := textsOf(found[0], true, true, true)
	return texts
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

// flatten lists the reasons in a tree of errors: our own, and the library's in our words.
func flatten(err error, to *[]reason) {
	if own, ok := err.(reason); ok {
		*to = append(*to, own)
		return
	}
	switch tree := err.(type) {
	case interface{ Unwrap() []error }:
		for _, inner := range tree.Unwrap() {
			flatten(inner, to)
		}
		return
	case interface{ Unwrap() error }:
		flatten(tree.Unwrap(), to)
		return
	}
	for _, known := range libraryReasons() {
		if err == known.err { // a leaf wraps nothing
			*to = append(*to, reason{known.code, known.text})
		}
	}
}
