package main

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// health is never refused for its Host: balancers and supervisors ask by any name.
func isHealth(path string) bool { return path == "/healthz" || path == "/readyz" }

// hosted lets a request pass whose Host is an IP address, a name of loopback or one
// of those given, and health checks by any name. Another name may have been bound
// to our address by a page of somebody else's, which would read what is here.
func hosted(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isHealth(r.URL.Path) || isHosted(names, r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusMisdirectedRequest)
		_, _ = io.WriteString(w, "421: metrics and profiles are not served under this Host. Ask by IP address or as localhost, or add the name to ops_hosts.\n")
	})
}

func isHosted(names []string, host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") ||
		slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSuffix(n, "."), host) })
}
