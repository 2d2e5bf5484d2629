package config

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// RedisTarget is how to reach a Redis.
type RedisTarget struct {
	redis.UniversalOptions
	Kind         RedisKind
	PasswordFile string // of the address; empty: it names none
}

// RedisKind says how many servers there are, and how the one to ask is found.
type RedisKind int

// The kinds of Redis.
const (
	SingleRedis RedisKind = iota
	SentinelRedis
	ClusterRedis
)

// clusterReload is how often a cluster is asked for its masters. With the client
// library's own minute, a queue would stop for a minute after a failover.
const clusterReload = 2 * time.Second

// Client opens a client with room for conns connections at once, of a cluster for
// each server; 0 means the library's own number. It dials nothing.
func (t RedisTarget) Client(conns int) redis.UniversalClient {
	t.PoolSize = conns
	switch t.Kind {
	case SentinelRedis:
		return redis.NewFailoverClient(t.Failover())
	case ClusterRedis:
		o := t.Cluster()
		o.ClusterStateReloadInterval = clusterReload
		return redis.NewClusterClient(o)
	}
	return redis.NewClient(t.Simple())
}

// Target returns how to reach the configured Redis. An error is a [Fault].
func (r Redis) Target() (RedisTarget, error) {
	t, err := ParseRedis(r.URL)
	if err != nil {
		return t, Fault{Key: "redis.url", Text: err.Error()}
	}
	if t.TLSConfig == nil {
		for _, f := range r.files()[1:] {
			if f.path != "" {
				return t, Fault{Key: f.key, Text: "is for TLS, and redis.url does not ask for it: it does as rediss://, or with ?tls=true after redis+sentinel:// and redis+cluster://"}
			}
		}
	} else if err := r.secure(t.TLSConfig); err != nil {
		return t, err
	}
	if t.PasswordFile == "" && r.PasswordFile == "" {
		return t, nil
	}
	file, key := r.PasswordFile, "redis.password_file"
	if file == "" {
		file, key = t.PasswordFile, "redis.url"
	} else if t.Password != "" || t.PasswordFile != "" {
		return t, Fault{Key: key, Text: "redis.url holds a password too, or the name of its file; only one can be meant"}
	}
	if _, err := readPassword(file); err != nil {
		return t, Fault{Key: key, Text: err.Error()}
	}
	user := t.Username
	t.CredentialsProviderContext = func(context.Context) (string, string, error) {
		password, err := readPassword(file)
		return user, password, err
	}
	return t, nil
}

type redisFile struct{ key, path string }

// files are the settings that name files; the first is not for TLS.
func (r Redis) files() []redisFile {
	return []redisFile{
		{"redis.password_file", r.PasswordFile}, {"redis.ca_file", r.CAFile}, {"redis.cert_file", r.CertFile}, {"redis.key_file", r.KeyFile},
	}
}

// secure adds to TLS what the files say.
func (r Redis) secure(c *tls.Config) error {
	roots, err := roots(r.CAFile)
	if err != nil {
		return Fault{Key: "redis.ca_file", Text: err.Error()}
	}
	c.RootCAs = roots
	switch {
	case r.CertFile == "" && r.KeyFile == "":
		return nil
	case r.CertFile == "":
		return Fault{Key: "redis.cert_file", Text: "needed beside redis.key_file"}
	case r.KeyFile == "":
		return Fault{Key: "redis.key_file", Text: "needed beside redis.cert_file"}
	}
	if _, err := tls.LoadX509KeyPair(r.CertFile, r.KeyFile); err != nil {
		return Fault{Key: "redis.cert_file", Text: err.Error()}
	}
	// Read at each handshake: a certificate is renewed while we run.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(r.CertFile, r.KeyFile)
		return &pair, err
	}
	return nil
}

// readPassword reads the password's file, as each new connection does: a password is
// changed while we run.
func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return password, nil
}

// quiet switches off the client library's handshake for maintenance notices,
// which only one vendor's cloud answers.
func quiet() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}
