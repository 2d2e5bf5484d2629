package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicehq/sluice/tasks/redistest"
)

// authority signs certificates for this machine, and writes them and their keys.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: raw}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

// A Redis as a careful operator runs it: TLS with an authority of its own, only
// clients with a certificate, and a password that is changed while we run.
func TestARedisWithItsOwnAuthorityAndAChangingPassword(t *testing.T) {
	t.Parallel()
	ours, other := newAuthority(t, "ca"), newAuthority(t, "other")
	ours.issue("server", &x509.Certificate{DNSNames: []string{"redis.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	ours.issue("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	server := redistest.Start(t, redistest.Options{Args: []string{
		"--tls-port", port, "--tls-cert-file", ours.path("server.pem"), "--tls-key-file", ours.path("server.key"),
		"--tls-ca-cert-file", ours.path("ca.pem"), "--tls-auth-clients", "yes",
	}})
	admin, ctx := server.Client(), t.Context()
	password := func(p string) {
		t.Helper()
		if err := os.WriteFile(ours.path("password"), []byte(p+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := admin.Do(ctx, "ACL", "SETUSER", "app", "on", "resetpass", ">"+p, "allkeys", "allchannels", "allcommands").Err(); err != nil {
			t.Fatal(err)
		}
	}
	password("one")
	full := Redis{
		URL: "rediss://app@127.0.0.1:" + port, PasswordFile: ours.path("password"),
		CAFile: ours.path("ca.pem"), CertFile: ours.path("client.pem"), KeyFile: ours.path("client.key"),
	}
	ping := func(r Redis) error {
		target, err := r.Target()
		if err != nil {
			t.Fatal(err)
		}
		target.DialerRetries, target.MaxRetries = 1, -1
		c := target.Client(1)
		defer c.Close()
		return c.Ping(ctx).Err()
	}

	target, err := full.Target()
	if err != nil {
		t.Fatal(err)
	}
	c := target.Client(1)
	defer c.Close()
	for _, p := range []string{"one", "two"} {
		password(p)
		if err := c.Ping(ctx).Err(); err != nil {
			t.Errorf("password %s: %v", p, err)
		}
		if err := admin.ClientKillByFilter(ctx, "USER", "app").Err(); err != nil {
			t.Fatal(err)
		}
	}
	ours.issue("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}) // renewed
	if err := c.Ping(ctx).Err(); err != nil {
		t.Errorf("after the password and the certificate were changed: %v", err)
	}

	for name, c := range map[string]struct {
		change func(*Redis)
		want   string
	}{
		"no authority":      {func(r *Redis) { r.CAFile = "" }, "unknown authority"},
		"another authority": {func(r *Redis) { r.CAFile = other.path("other.pem") }, "unknown authority"},
		"no certificate":    {func(r *Redis) { r.CertFile, r.KeyFile = "", "" }, "certificate required"},
		"another password":  {func(r *Redis) { r.PasswordFile = ours.path("ca.key") }, "WRONGPASS"},
		"another name":      {func(r *Redis) { r.URL = "rediss://app@localhost:" + port }, "certificate is valid for redis.internal"},
	} {
		r := full
		c.change(&r)
		if err := ping(r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
