package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// ParseRedis reads the setting redis.url:
//
//	redis://[user:password@]host[:6379][/db]        rediss:// with TLS
//	unix://[user:password@]/path/of/socket
//	redis+sentinel://[user:password@]host[:26379],…/master[/db]
//	redis+cluster://[user:password@]host[:6379],…
//
// valkey stands for redis everywhere. A query may hold protocol (2 or 3),
// dial_timeout, read_timeout and write_timeout (5s; a bare number is seconds); db,
// but for a cluster; password_file in place of a password; tls=true for Sentinel and
// for a cluster; sentinel_username and sentinel_password. An error never quotes the address, which may hold a password.
func ParseRedis(s string) (RedisTarget, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return RedisTarget{}, errors.New("has to be an address like redis://host:6379/0")
	}
	a := redisAddress{scheme: strings.ToLower(scheme)}
	if after, ok := strings.CutPrefix(a.scheme, "valkey"); ok {
		a.scheme = "redis" + after
	}
	t := RedisTarget{UniversalOptions: redis.UniversalOptions{ContextTimeoutEnabled: true, MaintNotificationsConfig: quiet()}}
	var place func(*redisAddress, *RedisTarget) error
	switch a.scheme {
	case "redis", "rediss":
		place = (*redisAddress).single
	case "unix":
		place = (*redisAddress).unix
	case "redis+sentinel":
		t.Kind, place = SentinelRedis, (*redisAddress).sentinel
	case "redis+cluster":
		t.Kind, place = ClusterRedis, (*redisAddress).cluster
	default:
		return RedisTarget{}, errors.New(strangeScheme(a.scheme))
	}
	if err := a.split(rest); err != nil {
		return RedisTarget{}, err
	}
	t.Username, t.Password = a.user, a.password
	if err := place(&a, &t); err != nil {
		return RedisTarget{}, err
	}
	if err := a.parameters(&t); err != nil {
		return RedisTarget{}, err
	}
	return t, nil
}

// strangeScheme says what to write instead of a scheme that other clients take. It quotes
// none: before an address without one a password may stand.
func strangeScheme(scheme string) string {
	switch scheme {
	case "redis-sentinel", "redis-cluster", "sentinel", "cluster":
		return "write redis+sentinel or redis+cluster, with a plus"
	case "rediss+sentinel", "rediss-sentinel", "redis+sentinels", "rediss+cluster", "rediss-cluster", "redis+clusters":
		return "write redis+sentinel or redis+cluster, and ?tls=true for TLS"
	case "tls", "redis+tls", "redis+ssl", "ssl":
		return "write rediss for Redis with TLS"
	case "redis+unix", "redis+socket", "redis-socket", "socket", "file":
		return "write unix for a socket, as in unix:///run/redis.sock"
	}
	return "its scheme is none of redis, rediss, unix, redis+sentinel, redis+cluster; valkey stands for redis"
}

// redisAddress is the address taken apart. The standard library's parser does
// not take a list of hosts.
type redisAddress struct {
	scheme         string
	user, password string
	hosts          []string
	path           []string // its parts
	rawPath        string
	query          url.Values
	plain          bool // no part of a password can stand where the query's names do
}

func (a *redisAddress) split(rest string) error {
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if a.query, err = url.ParseQuery(query); err != nil {
		return errors.New("its query cannot be read")
	}
	a.plain = !strings.Contains(query, "@") && !a.query.Has("sentinel_password")
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		if a.user, err = url.PathUnescape(user); err == nil {
			a.password, err = url.PathUnescape(password)
		}
		if err != nil {
			return errors.New("its user or password is not percent-encoded as it has to be")
		}
		authority = authority[at+1:]
	}
	if a.rawPath, err = url.PathUnescape("/" + path); err != nil {
		return errors.New("its path cannot be read")
	}
	a.path = strings.FieldsFunc(a.rawPath, func(r rune) bool { return r == '/' })
	if a.scheme == "unix" {
		if authority != "" {
			return errors.New("a unix socket's path begins with a slash, as in unix:///run/redis.sock")
		}
		return nil
	}
	if authority == "" {
		return errors.New("names no host")
	}
	a.hosts = strings.Split(authority, ",")
	return nil
}

// addrs returns the hosts as host:port, with port where an address has none.
func (a *redisAddress) addrs(port string) ([]string, error) {
	out := make([]string, 0, len(a.hosts))
	for _, h := range a.hosts {
		host, p, err := net.SplitHostPort(h)
		if err != nil {
			host, p = strings.Trim(h, "[]"), port
			if strings.Contains(host, ":") && !strings.HasPrefix(h, "[") {
				return nil, errors.New("an IPv6 address has to stand in brackets")
			}
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, errors.New("a port is no number from 1 to 65535; a password may need percent-encoding")
		}
		if host == "" {
			return nil, errors.New("names an empty host")
		}
		out = append(out, net.JoinHostPort(host, p))
	}
	return out, nil
}

func (a *redisAddress) single(t *RedisTarget) (err error) {
	if len(a.hosts) != 1 {
		return errors.New("more than one host needs redis+sentinel or redis+cluster")
	}
	if t.Addrs, err = a.addrs("6379"); err != nil {
		return err
	}
	if a.scheme == "rediss" {
		host, _, _ := net.SplitHostPort(t.Addrs[0])
		t.TLSConfig = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	if len(a.path) > 1 {
		return errors.New("its path has to be the number of a database")
	}
	return a.database(t, a.path)
}

func (a *redisAddress) unix(t *RedisTarget) error {
	if len(a.path) == 0 {
		return errors.New("names no socket")
	}
	t.Addrs = []string{a.rawPath} // the library takes what begins with a slash for a socket
	return a.database(t, nil)
}

func (a *redisAddress) sentinel(t *RedisTarget) (err error) {
	if t.Addrs, err = a.addrs("26379"); err != nil {
		return err
	}
	if len(a.path) < 1 || len(a.path) > 2 {
		return errors.New("its path has to be the master's name, and perhaps the number of a database")
	}
	t.MasterName = a.path[0]
	return a.database(t, a.path[1:])
}

func (a *redisAddress) cluster(t *RedisTarget) (err error) {
	if t.Addrs, err = a.addrs("6379"); err != nil {
		return err
	}
	if len(a.path) > 0 || a.query.Has("db") {
		return errors.New("a cluster has no numbered databases")
	}
	return nil
}

// database reads the number of a database from the path or from the query.
func (a *redisAddress) database(t *RedisTarget, path []string) error {
	s := a.query.Get("db")
	if len(path) > 0 {
		if s != "" {
			return errors.New("names the database twice, in its path and in its query")
		}
		s = path[0]
	}
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return errors.New("the database is no number; a password may need percent-encoding")
	}
	t.DB = int(n)
	return nil
}

// parameters reads the query but for db.
func (a *redisAddress) parameters(t *RedisTarget) error {
	waits := map[string]*time.Duration{"dial_timeout": &t.DialTimeout, "read_timeout": &t.ReadTimeout, "write_timeout": &t.WriteTimeout}
	for _, name := range slices.Sorted(maps.Keys(a.query)) {
		value := a.query.Get(name)
		var err error
		if len(a.query[name]) > 1 {
			return fmt.Errorf("its query holds %s twice", a.called(name))
		}
		switch {
		case name == "db":
		case name == "protocol":
			t.Protocol, err = redisProtocol(value)
		case waits[name] != nil:
			if *waits[name], err = redisWait(value); err != nil {
				err = fmt.Errorf("its %s %w", name, err)
			}
		case name == "password_file":
			err = t.passwordIn(value)
		case name == "tls" && t.Kind != SingleRedis:
			err = t.speakTLS(value)
		case name == "sentinel_username" && t.Kind == SentinelRedis:
			t.SentinelUsername = value
		case name == "sentinel_password" && t.Kind == SentinelRedis:
			t.SentinelPassword = value
		default:
			err = errors.New(a.strangeParameter(name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func redisProtocol(value string) (int, error) {
	switch value {
	case "2":
		return 2, nil
	case "3":
		return 3, nil
	}
	return 0, errors.New("its protocol is neither 2 nor 3")
}

// passwordIn notes which file has the password. What is no path may be a part of a password.
func (t *RedisTarget) passwordIn(file string) error {
	if !strings.HasPrefix(file, "/") || strings.Contains(file, "@") {
		return errors.New("its password_file has to be a path that begins with a slash, without an @")
	}
	if t.Password != "" {
		return errors.New("holds a password, and names a file for it too")
	}
	t.PasswordFile = file
	return nil
}

// speakTLS reads the parameter tls. Without a server's name the library takes the one
// of the node that it dials.
func (t *RedisTarget) speakTLS(value string) error {
	switch value {
	case "", "false":
	case "true":
		t.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return errors.New("its tls is neither true nor false")
	}
	return nil
}

// redisWait reads a time to wait: 5s, or 5 for as many seconds.
func redisWait(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		s = strconv.FormatUint(n, 10) + "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errors.New("is no time to wait, as in 5s")
	}
	return d, nil
}

// called is a parameter's name, or "a parameter" where it may be
// a part of a password that is not encoded.
func (a *redisAddress) called(name string) string {
	if a.plain && parameterRule.MatchString(name) {
		return name
	}
	return "a parameter"
}

var parameterRule = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,39}$`)

// strangeParameter says what is to be done instead of a parameter that is not taken.
func (a *redisAddress) strangeParameter(name string) string {
	for words, names := range map[string][]string{
		"certificates are always verified: redis.ca_file names an authority of your own, redis.cert_file and redis.key_file are the client's": {
			"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "skip_verify", "insecure", "insecure_skip_verify", "tls_insecure",
			"rejectUnauthorized", "tlsInsecure", "cert_reqs", "ca_certs",
		},
		"TLS is asked for by rediss://":         {"ssl", "tls"},
		"connections are redis.max_connections": {"pool_size", "max_connections", "max_active_conns", "max_idle_conns", "min_idle_conns", "pool_timeout", "connection_limit"},
		"user and password stand before the host, as in redis://user:password@host, or the password in the file that password_file names": {"user", "username", "auth", "password"},
		"leave it out": {"client_name", "family", "max_retries", "health_check_interval", "socket_keepalive", "retry_on_timeout", "decode_responses", "encoding", "idle_timeout", "max_retry_backoff", "min_retry_backoff", "pool_fifo", "conn_max_idle_time", "conn_max_lifetime"},
		"the names are dial_timeout, read_timeout and write_timeout": {"timeout", "socket_timeout", "socket_connect_timeout", "connect_timeout", "connectTimeout", "commandTimeout"},
	} {
		if slices.Contains(names, name) {
			return "its query holds " + name + ", which is not taken: " + words
		}
	}
	return "its query holds " + a.called(name) + ", which is not known; known are db, protocol, dial_timeout, read_timeout, write_timeout, password_file, tls, sentinel_username and sentinel_password, where they fit"
}
