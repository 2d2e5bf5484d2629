package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// Direct is the name of the way without a proxy.
const Direct = "direct"

const (
	// tunnelWithin is how long a connection through a way may take to come about.
	tunnelWithin = 10 * time.Second
	// maxHead caps the head of a proxy's answer.
	maxHead = 64 << 10
)

// KeepAlive has a connection whose other end is not reached any more show within a minute: a
// call that waits for its answer there would wait for all of its time.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 3}

// Way is one way to a provider, as it is configured.
type Way struct {
	// Name is what the way is called in logs, metrics and errors: its address
	// without its credentials, or Direct.
	Name string

	proxy *url.URL // nil: none
}

// Parse reads a way: "direct", or a proxy as http://, https:// or socks5://, which may
// have a user and a password before its host. Its errors hold nothing of either.
func Parse(s string) (Way, error) {
	if s == Direct {
		return Way{Name: Direct}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return Way{}, errors.New("is no address of a proxy, as http://proxy.example:3128, and not direct")
	}
	port := map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	switch {
	case u.Scheme == "socks5h":
		return Way{}, errors.New("begins with socks5h: write socks5, whose proxy finds the provider's name in any case")
	case port == "":
		return Way{}, errors.New("is neither direct nor begins with http://, https:// or socks5://")
	case u.Hostname() == "":
		return Way{}, errors.New("names no host")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return Way{}, errors.New("has something after its host and port")
	}
	if err := checkUser(u); err != nil {
		return Way{}, err
	}
	if u.Port() != "" {
		port = u.Port()
	}
	u.Host = net.JoinHostPort(u.Hostname(), port)
	return Way{Name: u.Scheme + "://" + u.Host, proxy: u}, nil
}

// checkUser checks the credentials for a proxy.
func checkUser(u *url.URL) error {
	password, _ := u.User.Password()
	switch {
	case u.User != nil && u.User.Username() == "":
		return errors.New("has a password and no user")
	case u.Scheme != "socks5" && strings.Contains(u.User.Username(), ":"):
		return errors.New("has a user with a colon, which HTTP has no form for")
	case len(u.User.Username()) > 255 || len(password) > 255:
		return errors.New("has a user or a password of more than 255 bytes")
	case strings.ContainsFunc(u.User.Username()+password, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("has a control character in its user or password")
	}
	return nil
}

// User is who the proxy is told that we are; "" for nobody.
func (w Way) User() string {
	if w.proxy == nil {
		return ""
	}
	return w.proxy.User.Username()
}

// dial opens a connection to an address of the provider's by this way: through a proxy
// a tunnel, so that what comes through it is the provider's and never the proxy's. roots
// vouch for a proxy with TLS; nil: the system does.
func (w Way) dial(ctx context.Context, network, addr string, roots *x509.CertPool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tunnelWithin)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: KeepAlive}
	switch {
	case w.proxy == nil:
		return dialer.DialContext(ctx, network, addr)
	case w.proxy.Scheme == "socks5":
		return w.socks(ctx, network, addr, dialer)
	}
	conn, err := dialer.DialContext(ctx, network, w.proxy.Host)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if w.proxy.Scheme == "https" {
		secure := tls.Client(conn, &tls.Config{ServerName: w.proxy.Hostname(), RootCAs: roots})
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("proxy: %w", err)
		}
		conn = secure
	}
	if err := connect(ctx, conn, addr, w.proxy.User); err != nil {
		conn.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return conn, nil
}

// socks opens a tunnel by RFC 1928 and 1929; the proxy finds the provider's name.
func (w Way) socks(ctx context.Context, network, addr string, dialer *net.Dialer) (net.Conn, error) {
	var who *proxy.Auth
	if w.proxy.User != nil {
		password, _ := w.proxy.User.Password()
		who = &proxy.Auth{User: w.proxy.User.Username(), Password: password}
	}
	d, err := proxy.SOCKS5(network, w.proxy.Host, who, dialer)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	conn, err := d.(proxy.ContextDialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return conn, nil
}

// connect asks a proxy for a tunnel (RFC 9110 section 9.3.6).
func connect(ctx context.Context, conn net.Conn, addr string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ask := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		ask.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := ask.Write(conn); err != nil {
		return ended(ctx, err)
	}
	r := bufio.NewReader(io.LimitReader(conn, maxHead))
	answer, err := http.ReadResponse(r, ask)
	if err != nil {
		return ended(ctx, err)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("it refuses a tunnel with %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	if r.Buffered() > 0 {
		return errors.New("it speaks before the provider can")
	}
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// ended is the reason that a context ended, where that broke a connection.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
