package auth

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

const (
	maxNameBytes = 255 // sub and jti
	maxScopes    = 64  // of a token of our own
	maxGlobs     = 64  // of models, and of pools, that a token is narrowed to

	modelsClaim = "models" // of a token of our own: globs of the models that it may ask
	poolsClaim  = "pools"  // likewise: globs of the pools that it may use
)

// claimRules are by what the claims of one issuer's tokens are read.
type claimRules struct {
	own         bool // whose tokens have exactly the claims that Sluice mints
	maxLifetime time.Duration

	tenantIs string // every token's; "": the claim's
	tenant   string
	tenants  map[string]string
	scopeIs  []string // every token's; nil: the claim's
	scope    []string
	scopes   map[string][]string
	sub, aud string
	pools    string // the claim that narrows a foreign issuer's tokens to pools; "": none does
	require  []requirement
	roots    []string // the members that are looked into
}

// requirement is a claim and the values of which it must have one.
type requirement struct {
	path   string
	values []string
}

// claimSet is a token's second part. It reads itself strictly, and the parser
// checks what it returns.
type claimSet struct {
	by  *claimRules
	alg string // with which it is signed

	iss, jti      string
	exp, iat, nbf time.Time
	seen          []string                  // names of the claims that are there, of those that are looked for
	values        map[string]jsontext.Value // of the members that the rules look into
	aud           jwt.ClaimStrings
	sub, tenant   string
	scopes        []string
	models, pools []string
	faults        []reason // what a good signature does not mend; told only after it
}

// standardClaims are read under these names from every issuer.
func standardClaims() []string { return []string{"iss", "exp", "iat", "nbf", "jti"} }

// UnmarshalJSON reads the claims. Members that are not known are ignored
// (RFC 7519 section 4), unless they differ from a known one only in case.
func (c *claimSet) UnmarshalJSON(text []byte) error {
	c.values = map[string]jsontext.Value{}
	known := append(standardClaims(), c.by.roots...)
	err := members(text, func(name string, value *jsontext.Decoder) error {
		if !slices.Contains(known, name) {
			for _, k := range known {
				if strings.EqualFold(name, k) {
					return malformed("a claim is spelt in another case")
				}
			}
			return value.SkipValue()
		}
		c.seen = append(c.seen, name)
		if !slices.Contains(c.by.roots, name) {
			return c.standard(name, value)
		}
		v, err := value.ReadValue()
		if err != nil {
			return err
		}
		c.values[name] = v.Clone()
		if slices.Contains(standardClaims(), name) {
			return c.standard(name, jsontext.NewDecoder(bytes.NewReader(c.values[name])))
		}
		return nil
	})
	if err == nil {
		c.resolve()
	}
	return err
}

func (c *claimSet) standard(name string, value *jsontext.Decoder) error {
	switch name {
	case "iss":
		return readString(value, &c.iss)
	case "jti":
		return readString(value, &c.jti)
	case "exp":
		return readTime(value, &c.exp)
	case "iat":
		return readTime(value, &c.iat)
	default:
		return readTime(value, &c.nbf)
	}
}

// resolve finds what the rules ask for. Its faults wait for the signature.
func (c *claimSet) resolve() {
	r := c.by
	fault := func(code, text string) { c.faults = append(c.faults, reason{code, text}) }
	c.aud = c.several(r.aud, "aud")
	if subs := c.several(r.sub, "sub"); len(subs) == 1 && validName(subs[0]) {
		c.sub = subs[0]
	} else if len(subs) > 0 {
		fault(reasonClaim, "sub is not one name, empty, too long or has control characters")
	}
	c.resolveTenant(fault)
	c.resolveScopes(fault)
	if r.own {
		c.models = c.globs(modelsClaim, fault)
		c.pools = c.globs(poolsClaim, fault)
	} else if r.pools != "" {
		for _, text := range c.several(r.pools, poolsClaim) {
			c.pools = append(c.pools, strings.Fields(text)...)
		}
		if !ValidGlobs(c.pools) || len(c.pools) == 0 {
			fault(reasonClaim, "the claim that auth.issuers names for pools has not 1 to 64 names of pools, in which * stands for any text")
		}
	}
	for _, q := range r.require {
		got := c.several(q.path, "")
		if !slices.ContainsFunc(got, func(s string) bool { return slices.Contains(q.values, s) }) {
			fault(reasonRequire, "a claim has not the value that auth.issuers requires")
		}
	}
	if r.own && !slices.Contains(c.seen, "jti") {
		fault(reasonClaim, "a required claim is missing: jti")
	}
	if slices.Contains(c.seen, "jti") && !validName(c.jti) {
		fault(reasonClaim, "jti is empty, too long or has control characters")
	}
}

// globs returns what a token of our own is narrowed to by a claim; none: it has no such claim.
func (c *claimSet) globs(claim string, fault func(code, text string)) []string {
	if !slices.Contains(c.seen, claim) {
		return nil
	}
	globs, ok := textsOf(c.values[claim], false, false, true)
	// An empty list would be read as no limit.
	if !ok || !ValidGlobs(globs) || len(globs) == 0 {
		fault(reasonClaim, claim+" is not a list of 1 to 64 names of "+claim+", in which * stands for any text")
	}
	return globs
}

func (c *claimSet) resolveTenant(fault func(code, text string)) {
	r := c.by
	if c.tenant = r.tenantIs; c.tenant != "" {
		return
	}
	got := c.several(r.tenant, "tenant")
	switch len(got) {
	case 0:
		return // said already
	case 1:
	default:
		fault(reasonTenant, "the tenant's claim has several values")
		return
	}
	if r.tenants != nil {
		if c.tenant = r.tenants[got[0]]; c.tenant == "" {
			fault(reasonTenant, "the tenant is not one that auth.issuers lists in tenants")
		}
		return
	}
	if !ValidTenant(got[0]) {
		fault(reasonTenant, "the tenant's claim is not a tenant's name: letters, digits, _ and -, at most 64; auth.issuers can give it one in tenants")
		return
	}
	c.tenant = got[0]
}

func (c *claimSet) resolveScopes(fault func(code, text string)) {
	r := c.by
	if r.scopeIs != nil {
		c.scopes = slices.Clone(r.scopeIs)
		return
	}
	if r.own {
		if got := c.several(r.scope[0], "scope"); len(got) == 1 {
			if !splitScopes(got[0], &c.scopes) {
				fault(reasonClaim, "scope is malformed, or has more than 64 names")
			}
		}
		return
	}
	for _, path := range r.scope {
		for _, text := range c.several(path, "") {
			// A value is looked up whole first: a role's name may have spaces.
			if r.scopes[text] == nil {
				c.grant(strings.Fields(text)...)
			} else {
				c.grant(text)
			}
		}
	}
}

// grant gives what values of an issuer's scope mean here. One that means nothing is no fault.
func (c *claimSet) grant(values ...string) {
	for _, value := range values {
		means := c.by.scopes[value]
		if c.by.scopes == nil && slices.Contains(Scopes(), value) {
			means = []string{value}
		}
		for _, s := range means {
			if !slices.Contains(c.scopes, s) {
				c.scopes = append(c.scopes, s)
			}
		}
	}
}

// several returns the texts of the claim at a path: text is one, a list of texts are
// several, and a foreign issuer's whole numbers and truth values count as their text.
// needed is the name under which its absence is a fault; "" means that it may be absent.
func (c *claimSet) several(path, needed string) []string {
	found := c.find(path)
	switch {
	case len(found) > 1:
		c.faults = append(c.faults, reason{reasonClaim, "the name of a claim in auth.issuers fits two places of the token"})
		return nil
	case len(found) == 0 && needed != "":
		c.faults = append(c.faults, reason{reasonClaim, "a required claim is missing: " + missing(needed)})
		return nil
	case len(found) == 0:
		return nil
	}
	// Of our own tokens only aud may be a list.
	texts, ok := textsOf(found[0], !c.by.own, needed == "", !c.by.own || needed == "aud")
	switch {
	case !ok:
		c.faults = append(c.faults, reason{reasonClaim, "a claim is neither text nor a list of texts"})
		return nil
	case len(texts) == 0 && needed != "":
		c.faults = append(c.faults, reason{reasonClaim, "a required claim is an empty list: " + missing(needed)})
	}
	return texts
}

// missing names what is asked for, not the claim that it is configured to stand in.
func missing(needed string) string {
	if needed == "tenant" {
		return "the tenant's"
	}
	return needed
}

// find returns what a path leads to: the member of that whole name, and the members of
// objects that its dots may lead into. A name may itself have dots.
func (c *claimSet) find(path string) []jsontext.Value {
	return follow(func(name string) (jsontext.Value, bool) {
		v, ok := c.values[name]
		return v, ok
	}, path)
}

func follow(get func(name string) (jsontext.Value, bool), path string) (found []jsontext.Value) {
	if v, ok := get(path); ok {
		found = append(found, v)
	}
	for i := range len(path) {
		if path[i] != '.' || i == 0 || i == len(path)-1 {
			continue
		}
		v, ok := get(path[:i])
		if !ok || v.Kind() != '{' {
			continue
		}
		inner := map[string]jsontext.Value{}
		// Read once already, so it has no fault.
		_ = members(v, func(name string, value *jsontext.Decoder) error {
			m, err := value.ReadValue()
			inner[name] = m.Clone()
			return err
		})
		found = append(found, follow(func(name string) (jsontext.Value, bool) {
			v, ok := inner[name]
			return v, ok
		}, path[i+1:])...)
	}
	return found
}

// textsOf reads a claim's value as texts, where allowed also a whole number, a truth
// value, and a list of texts.
func textsOf(v jsontext.Value, numbers, truths, lists bool) (texts []string, ok bool) {
	one := func(v jsontext.Value) bool {
		switch {
		case v.Kind() == '"':
			b, err := jsontext.AppendUnquote(nil, v)
			texts = append(texts, string(b))
			return err == nil
		case truths && (v.Kind() == 't' || v.Kind() == 'f'),
			numbers && v.Kind() == '0' && strings.Trim(string(v), "0123456789") == "":
			texts = append(texts, string(v))
			return true
		}
		return false
	}
	if v.Kind() != '[' {
		return texts, one(v)
	}
	if !lists {
		return nil, false
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadToken(); err != nil {
		return nil, false
	}
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue()
		if err != nil || item.Kind() != '"' || !one(item) {
			return nil, false
		}
	}
	return texts, true
}

// Validate checks what the parser's own validation leaves open. It runs after
// the signature was found good.
func (c *claimSet) Validate() error {
	faults := make([]error, 0, len(c.faults)+1)
	for _, f := range c.faults {
		faults = append(faults, f)
	}
	fault := func(code, text string) { faults = append(faults, reason{code, text}) }
	switch {
	case c.values == nil: // the text was null, which never gets to UnmarshalJSON
		fault(reasonMalformed, "the claims are null")
	case !slices.Contains(c.seen, "iss"), !slices.Contains(c.seen, "exp"):
		fault(reasonClaim, "a required claim is missing: iss or exp")
	case !slices.Contains(c.seen, "iat"):
		fault(reasonClaim, "a required claim is missing: iat")
	case !c.exp.After(c.iat):
		fault(reasonLifetime, "exp is not after iat")
	case c.exp.Sub(c.iat) > c.by.maxLifetime && !keptForm(c.by.own, c.alg, c.jti):
		fault(reasonLifetime, "the lifetime is too long: max_lifetime bounds exp - iat")
	case len(faults) == 0 && (c.sub == "" || c.tenant == ""): // resolve has said it, or overlooked something
		fault(reasonClaim, "a required claim is missing: sub or the tenant's")
	}
	return errors.Join(faults...)
}

// The getters that jwt.Claims asks for.

func (c *claimSet) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.exp), nil }
func (c *claimSet) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.iat), nil }
func (c *claimSet) GetNotBefore() (*jwt.NumericDate, error)      { return date(c.nbf), nil }
func (c *claimSet) GetIssuer() (string, error)                   { return c.iss, nil }
func (c *claimSet) GetSubject() (string, error)                  { return c.sub, nil }
func (c *claimSet) GetAudience() (jwt.ClaimStrings, error)       { return c.aud, nil }

func date(t time.Time) *jwt.NumericDate {
	if t.IsZero() {
		return nil
	}
	return &jwt.NumericDate{Time: t}
}

// readTime reads a NumericDate: a JSON number of seconds since 1970, perhaps
// with a fraction (RFC 7519 section 2). Years outside 1970 to 9999 are refused.
func readTime(dec *jsontext.Decoder, to *time.Time) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '0' {
		return malformed("a time is not a number")
	}
	const year10000 = 253402300800
	s, err := strconv.ParseFloat(tok.String(), 64)
	if err != nil || s <= 0 || s >= year10000 {
		return malformed("a time is out of range")
	}
	whole, fraction := math.Modf(s)
	*to = time.Unix(int64(whole), int64(fraction*1e9)).UTC()
	return nil
}

// splitScopes takes a scope apart: tokens of visible ASCII without '"' and '\',
// one space between two (RFC 6749 section 3.3), at most maxScopes.
func splitScopes(s string, to *[]string) bool {
	scopes := strings.Split(s, " ")
	if len(scopes) > maxScopes {
		return false
	}
	for _, scope := range scopes {
		if scope == "" {
			return false
		}
		for i := range len(scope) {
			if b := scope[i]; b <= ' ' || b > '~' || b == '"' || b == '\\' {
				return false
			}
		}
	}
	*to = scopes
	return true
}

// ValidGlobs reports whether a token may be narrowed to these models or pools: at most 64
// names, in which only "*" stands for others.
func ValidGlobs(globs []string) bool {
	for _, g := range globs {
		if !validName(g) || strings.ContainsAny(g, "?[\\") {
			return false
		}
	}
	return len(globs) <= maxGlobs
}

// ValidName reports whether a text can be a token's jti or subject: at most 255 bytes,
// all of it printable.
func ValidName(s string) bool { return validName(s) }

// validName reports whether a subject or token id can be written to a log line
// and a page as it is.
func validName(s string) bool {
	return s != "" && len(s) <= maxNameBytes && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
