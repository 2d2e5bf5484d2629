package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// Rule is why a URL is refused. It is an error, one of the constants below, and
// never holds an address, a host or any other part of the URL.
type Rule string

// The rules of a URL. All but the last look at its text alone.
const (
	RuleTooLong       Rule = "url_too_long"       // over 2048 bytes
	RuleMalformed     Rule = "url_malformed"      // not an absolute URL of printable ASCII without spaces
	RuleScheme        Rule = "scheme_not_allowed" // https; also http where the operator allows it
	RuleUserinfo      Rule = "userinfo"           // a name or password before the host
	RuleFragment      Rule = "fragment"           // a # and what follows
	RuleHostMissing   Rule = "host_missing"       // no host at all
	RuleHostNotASCII  Rule = "host_not_ascii"     // international names are taken in their xn-- form
	RuleHostMalformed Rule = "host_malformed"     // not a host name of letters, digits, - and _
	RuleHostNumeric   Rule = "host_numeric"       // ends as a number and is no plain dotted IPv4 address
	RuleZone          Rule = "host_zone"          // an IPv6 zone
	RuleTrailingDot   Rule = "host_trailing_dot"  // a full stop at the end of the host
	RuleSingleLabel   Rule = "host_single_label"  // no full stop in the host
	RuleInternalName  Rule = "host_internal"      // a name that means something on a private network only
	RuleOwnHost       Rule = "host_own"           // our own name
	RulePort          Rule = "port_not_allowed"   // 443; also 80 where plain http is allowed
	RuleAddress       Rule = "address_not_allowed"
)

// Error returns the rule's name.
func (r Rule) Error() string { return "URL refused: " + string(r) }

// Words say what to do about a refused URL. They hold no part of it, and nothing of what a
// name means inside: for whoever asks, the URL was judged by its text alone.
func (r Rule) Words() string {
	switch r {
	case RuleTooLong:
		return "it may have 2048 bytes at most"
	case RuleScheme:
		return "it has to be https; plain http is the operator's to allow (webhooks.allow_http)"
	case RuleUserinfo:
		return "leave its name and password out; an endpoint may have a header Authorization instead"
	case RuleFragment:
		return "leave out the # and what follows it"
	case RuleHostMissing:
		return "it names no host"
	case RuleHostNotASCII:
		return "write its host in the xn-- form"
	case RuleHostMalformed, RuleHostNumeric, RuleZone, RuleTrailingDot:
		return "write its host as a name of letters and digits, or as a plain address without a zone or a full stop behind it"
	case RuleSingleLabel, RuleInternalName, RuleOwnHost, RuleAddress:
		return "its host is no public one; others are the operator's to allow (webhooks.allow_hosts, webhooks.allow_private)"
	case RulePort:
		return "leave its port out; another than the scheme's own is the operator's to allow (webhooks.allow_hosts, webhooks.allow_private)"
	}
	return "write an absolute https address of printable ASCII without spaces"
}

// GuardConfig says where webhooks may go. The zero value is the strict rule:
// public addresses, https, port 443.
type GuardConfig struct {
	// AllowHTTP also takes plain http, and port 80. False: https alone.
	AllowHTTP bool
	// AllowPrivate also takes loopback, RFC 1918, RFC 6598 and unique local IPv6
	// addresses, names that only a private network knows, and any port. It is meant
	// for tests and closed networks. Link-local, multicast and reserved addresses,
	// the known metadata services and DenyPrefixes stay refused. False: public
	// addresses alone.
	AllowPrivate bool
	// AllowHosts are host names and IP addresses to which AllowPrivate applies by
	// themselves. They are compared with the host of a URL as it is written,
	// without regard to case. Empty: none.
	AllowHosts []string
	// DenyPrefixes are refused whatever else is allowed. Empty: none.
	DenyPrefixes []netip.Prefix
	// OwnHosts are our own host names, as in public_url. They are not refused
	// under AllowPrivate, where we and a receiver may share a name. Empty: none.
	OwnHosts []string
	// OwnAddrs are public addresses of ours that no interface of this machine
	// bears, as behind a load balancer. The addresses of the interfaces at the time
	// of NewGuard are always added. Not refused under AllowPrivate. Empty: none.
	OwnAddrs []netip.Addr
	// Resolver looks names up. Nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// Guard decides where webhooks may go. It is safe for concurrent use.
type Guard struct {
	allowHTTP    bool
	allowPrivate bool
	allowHosts   map[string]bool
	ownHosts     map[string]bool
	ownAddrs     map[netip.Addr]bool
	deny         []netip.Prefix
	strict       *ssrf.Guardian
	relaxed      *ssrf.Guardian
	resolver     *net.Resolver

	// observe, when set, is told of every address on its way to be dialled, with
	// the guard's verdict, and its own answer counts instead.
	observe func(network, address string, verdict error) error
}

const maxURLBytes = 2048

// The dialer's time to connect, and the interval of TCP keep-alive probes.
const (
	dialTimeout = 5 * time.Second
	keepAlive   = 30 * time.Second
)

// NewGuard returns a guard, or an error that names every entry of AllowHosts or
// OwnHosts that is no host.
func NewGuard(cfg GuardConfig) (*Guard, error) {
	allow, errAllow := hostSet("allow_hosts", cfg.AllowHosts)
	own, errOwn := hostSet("own hosts", cfg.OwnHosts)
	if err := errors.Join(errAllow, errOwn); err != nil {
		return nil, err
	}
	g := &Guard{
		allowHTTP:    cfg.AllowHTTP,
		allowPrivate: cfg.AllowPrivate,
		allowHosts:   allow,
		ownHosts:     own,
		ownAddrs:     map[netip.Addr]bool{},
		deny:         alwaysDenied(),
		resolver:     cfg.Resolver,
	}
	for _, p := range cfg.DenyPrefixes {
		if !p.IsValid() {
			return nil, errors.New("deny prefixes: one of them is not valid")
		}
		// A mapped prefix would never match: addresses are compared unmapped.
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		g.deny = append(g.deny, p.Masked())
	}
	if g.resolver == nil {
		g.resolver = net.DefaultResolver
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list our own addresses: %w", err)
	}
	for _, a := range interfaces {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				g.ownAddrs[addr.Unmap()] = true
			}
		}
	}
	for _, a := range cfg.OwnAddrs {
		g.ownAddrs[a.Unmap()] = true
	}
	ports := []uint16{443}
	if cfg.AllowHTTP {
		ports = append(ports, 80)
	}
	g.strict = ssrf.New(ssrf.WithPorts(ports...))
	g.relaxed = ssrf.New(ssrf.WithAnyPort(),
		ssrf.WithAllowedV4Prefixes(
			netip.MustParsePrefix("127.0.0.0/8"),
			netip.MustParsePrefix("10.0.0.0/8"),
			netip.MustParsePrefix("172.16.0.0/12"),
			netip.MustParsePrefix("192.168.0.0/16"),
			netip.MustParsePrefix("100.64.0.0/10"),
		),
		ssrf.WithAllowedV6Prefixes(
			netip.MustParsePrefix("::1/128"),
			netip.MustParsePrefix("fc00::/7"),
		))
	return g, nil
}

// alwaysDenied are services of cloud hosts that answer anybody on the machine.
// The first has a public address and stands in no registry of special ones; the
// others lie in ranges that AllowPrivate opens.
func alwaysDenied() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure wire server
		netip.MustParsePrefix("169.254.0.0/16"),     // link-local; metadata of most hosts
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud metadata
		netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud classic metadata
		netip.MustParsePrefix("fd00:ec2::/32"),      // AWS metadata, DNS and time
		netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud metadata
		netip.MustParsePrefix("fd00:42::42/128"),    // Scaleway metadata
	}
}

// CheckURL judges a URL by its text alone, without a look at the network: one who
// saves many URLs would have us make as many look-ups, and read in the answers what
// names mean inside. The error is a [Rule]. A URL that passes may still be refused
// when it is dialled.
func (g *Guard) CheckURL(raw string) error {
	if len(raw) > maxURLBytes {
		return RuleTooLong
	}
	if strings.ContainsFunc(raw, neverInURL) {
		return RuleMalformed
	}
	u, err := url.Parse(raw)
	if err != nil {
		return RuleMalformed
	}
	switch {
	case u.Scheme == "":
		return RuleMalformed
	case u.Scheme != "https" && (u.Scheme != "http" || !g.allowHTTP):
		return RuleScheme
	case u.User != nil:
		return RuleUserinfo
	case strings.Contains(raw, "#"):
		return RuleFragment
	case u.Opaque != "" || u.Hostname() == "":
		return RuleHostMissing
	}
	host := u.Hostname()
	relaxed := g.isRelaxed(host)
	if err := g.checkHost(host, u.Host[0] == '[', relaxed); err != nil {
		return err
	}
	if !isASCII(raw) { // in the path or the query; the host has its own rule
		return RuleMalformed
	}
	return g.checkPort(u, relaxed)
}

// neverInURL reports whether a URL has to escape r (RFC 3986). What is not ASCII
// passes here: the host has a rule of its own for it.
func neverInURL(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
}

func (g *Guard) checkHost(host string, bracketed, relaxed bool) error {
	if bracketed {
		addr, err := netip.ParseAddr(host)
		switch {
		case strings.Contains(host, "%"):
			return RuleZone
		case err != nil:
			return RuleHostMalformed
		}
		return g.checkAddr(addr, relaxed)
	}
	if !isASCII(host) {
		// net/http folds such a host only after we have seen it: circled digits
		// become 127.0.0.1.
		return RuleHostNotASCII
	}
	host = strings.ToLower(host)
	if strings.HasSuffix(host, ".") {
		return RuleTrailingDot
	}
	labels := strings.Split(host, ".")
	if len(host) > 253 || slices.ContainsFunc(labels, func(l string) bool { return !isLabel(l) }) {
		return RuleHostMalformed
	}
	if !isNumeric(labels[len(labels)-1]) {
		return g.checkName(host, relaxed)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil { // 2130706433, 0x7f.1, 0177.0.0.1: the C library reads them as addresses
		return RuleHostNumeric
	}
	if g.ownHosts[host] && !relaxed {
		return RuleOwnHost
	}
	return g.checkAddr(addr, relaxed)
}

// checkName judges a well-formed name in small letters.
func (g *Guard) checkName(host string, relaxed bool) error {
	switch {
	case isMetadataName(host):
		return RuleInternalName
	case relaxed:
		return nil
	case g.ownHosts[host]:
		return RuleOwnHost
	case isInternalName(host):
		return RuleInternalName
	case !strings.Contains(host, "."):
		return RuleSingleLabel
	}
	return nil
}

func (g *Guard) checkPort(u *url.URL, relaxed bool) error {
	text := u.Port()
	if text == "" {
		if strings.HasSuffix(u.Host, ":") {
			return RulePort
		}
		return nil // the scheme's own, which CheckURL has allowed
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || text[0] == '0' {
		return RulePort
	}
	if relaxed || port == 443 || port == 80 && g.allowHTTP {
		return nil
	}
	return RulePort
}

// isRelaxed reports whether the rule of AllowPrivate holds for host.
func (g *Guard) isRelaxed(host string) bool {
	return g.allowPrivate || g.allowHosts[canonicalHost(host)]
}

// checkAddr judges one address.
func (g *Guard) checkAddr(addr netip.Addr, relaxed bool) error {
	if addr.Zone() != "" { // a prefix never contains an address with a zone
		return RuleAddress
	}
	for _, p := range g.deny {
		if p.Contains(addr) {
			return RuleAddress
		}
	}
	guardian := g.strict
	if relaxed {
		guardian = g.relaxed
	} else if g.ownAddrs[addr] {
		return RuleAddress
	}
	if guardian.SafeAddr(addr) != nil {
		return RuleAddress
	}
	return nil
}

// judge is asked by the dialer about each address that it is about to connect to.
func (g *Guard) judge(network, address string, relaxed bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return RuleAddress
	}
	if err := g.checkAddr(ap.Addr().Unmap(), relaxed); err != nil {
		return err
	}
	guardian := g.strict
	if relaxed {
		guardian = g.relaxed
	}
	switch err := guardian.Safe(network, address, nil); {
	case errors.Is(err, ssrf.ErrProhibitedPort):
		return RulePort
	case err != nil:
		return RuleAddress
	}
	return nil
}

// DialContext connects to a host and port, and refuses each address that the
// host turns out to have with a [Rule] inside a *net.OpError. It is the only way
// out of a [Sender].
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, RuleHostMalformed
	}
	relaxed := g.isRelaxed(host)
	d := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: keepAlive,
		Resolver:  g.resolver,
		// Control sees what will be dialled: after names, after the folding of
		// Unicode, once for each address.
		Control: func(network, address string, _ syscall.RawConn) error {
			verdict := g.judge(network, address, relaxed)
			if g.observe != nil {
				return g.observe(network, address, verdict)
			}
			return verdict
		},
	}
	return d.DialContext(ctx, network, address)
}

// isMetadataName reports whether host is a metadata service's own name.
func isMetadataName(host string) bool {
	return host == "metadata.google.internal" || host == "metadata.goog" || host == "instance-data.ec2.internal"
}

// isInternalName reports whether host ends in a name that is not, or should never
// be, in the public DNS: RFC 6761, RFC 6762, RFC 8375, the reserved .internal,
// cluster names, and what home and office routers hand out.
func isInternalName(host string) bool {
	for _, suffix := range [...]string{
		"localhost", "local", "localdomain", "internal", "svc", "intranet", "private", "corp",
		"home", "home.arpa", "lan", "onion", "alt",
	} {
		if host == suffix || strings.HasSuffix(host, "."+suffix) {
			return true
		}
	}
	return false
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !isIDByte(s[i]) {
			return false
		}
	}
	return true
}

// isNumeric reports whether a host that ends in this label is read as an IPv4
// address by lenient parsers (WHATWG URL, "ends in a number").
func isNumeric(label string) bool {
	if hex, ok := strings.CutPrefix(strings.ToLower(label), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// canonicalHost is a host's one spelling in the sets of a guard.
func canonicalHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String()
	}
	return strings.ToLower(host)
}

func hostSet(key string, hosts []string) (map[string]bool, error) {
	set := make(map[string]bool, len(hosts))
	var errs []error
	for _, h := range hosts {
		host := canonicalHost(strings.Trim(h, "[]"))
		if _, err := netip.ParseAddr(host); err != nil && slices.ContainsFunc(strings.Split(host, "."), func(l string) bool { return !isLabel(l) }) {
			errs = append(errs, fmt.Errorf("%s: %q is neither a host name nor an IP address", key, h))
		}
		set[host] = true
	}
	return set, errors.Join(errs...)
}
