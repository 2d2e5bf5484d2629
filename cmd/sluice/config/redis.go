package config

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// RedisTarget is how to reach a Redis: exactly one of the three is set.
type RedisTarget struct {
	Single   *redis.Options
	Sentinel *redis.FailoverOptions
	Cluster  *redis.ClusterOptions
}

// clusterReload is how often a cluster is asked for its masters. With the client
// library's own minute, a queue would stop for a minute after a failover.
const clusterReload = 2 * time.Second

// ParseRedis reads the setting redis.url:
//
//	redis://[user:password@]host[:6379][/db]        rediss:// with TLS
//	unix://[user:password@]/path/of/socket[?db=n]
//	redis+sentinel://[user:password@]host[:26379],…/master[/db][?sentinel_username=…&sentinel_password=…&tls=true]
//	redis+cluster://[user:password@]host[:6379],…[?tls=true]
//
// An error never quotes the address, which may hold a password.
func ParseRedis(s string) (RedisTarget, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return RedisTarget{}, errors.New("has to be an address like redis://host:6379/0")
	}
	a, err := parseRedisAddress(rest, scheme == "unix")
	if err != nil {
		return RedisTarget{}, err
	}
	switch scheme {
	case "redis", "rediss":
		return a.single(scheme == "rediss")
	case "unix":
		return a.unix()
	case "redis+sentinel":
		return a.sentinel()
	case "redis+cluster":
		return a.cluster()
	}
	return RedisTarget{}, errors.New("its scheme is none of redis, rediss, unix, redis+sentinel, redis+cluster")
}

// redisAddress is the address taken apart. The standard library's parser does
// not take a list of hosts.
type redisAddress struct {
	user, password string
	hosts          []string
	path           []string // its parts
	rawPath        string
	query          url.Values
}

func parseRedisAddress(rest string, socket bool) (redisAddress, error) {
	var a redisAddress
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if a.query, err = url.ParseQuery(query); err != nil {
		return a, errors.New("its query cannot be read")
	}
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		if a.user, err = url.PathUnescape(user); err == nil {
			a.password, err = url.PathUnescape(password)
		}
		if err != nil {
			return a, errors.New("its user or password is not percent-encoded as it has to be")
		}
		authority = authority[at+1:]
	}
	if a.rawPath, err = url.PathUnescape("/" + path); err != nil {
		return a, errors.New("its path cannot be read")
	}
	a.path = strings.FieldsFunc(a.rawPath, func(r rune) bool { return r == '/' })
	if socket {
		if authority != "" {
			return a, errors.New("a unix socket's path begins with a slash, as in unix:///run/redis.sock")
		}
		return a, nil
	}
	if authority == "" {
		return a, errors.New("names no host")
	}
	a.hosts = strings.Split(authority, ",")
	return a, nil
}

// addrs returns the hosts as host:port, with port where an address has none.
func (a redisAddress) addrs(port string) ([]string, error) {
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

// only refuses parameters of the query other than names.
func (a redisAddress) only(names ...string) error {
next:
	for k := range a.query {
		for _, n := range names {
			if k == n {
				continue next
			}
		}
		return errors.New("its query holds a parameter that is not known here")
	}
	return nil
}

// database reads the number of a database; "" is 0.
func database(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, errors.New("the database is no number; a password may need percent-encoding")
	}
	return int(n), nil
}

// tls is nil unless the query asks for TLS.
func (a redisAddress) tls(host string) (*tls.Config, error) {
	switch a.query.Get("tls") {
	case "", "false":
		return nil, nil
	case "true":
		return &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}, nil
	default:
		return nil, errors.New("its tls is neither true nor false")
	}
}

func (a redisAddress) single(secure bool) (RedisTarget, error) {
	if len(a.hosts) != 1 {
		return RedisTarget{}, errors.New("more than one host needs redis+sentinel or redis+cluster")
	}
	addrs, err := a.addrs("6379")
	if err != nil {
		return RedisTarget{}, err
	}
	if err := a.only(); err != nil {
		return RedisTarget{}, err
	}
	if len(a.path) > 1 {
		return RedisTarget{}, errors.New("its path has to be the number of a database")
	}
	db, err := database(strings.Join(a.path, ""))
	if err != nil {
		return RedisTarget{}, err
	}
	o := &redis.Options{
		Network: "tcp", Addr: addrs[0], Username: a.user, Password: a.password, DB: db,
		ContextTimeoutEnabled: true, MaintNotificationsConfig: quiet(),
	}
	if secure {
		host, _, _ := net.SplitHostPort(addrs[0])
		o.TLSConfig = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return RedisTarget{Single: o}, nil
}

func (a redisAddress) unix() (RedisTarget, error) {
	if err := a.only("db"); err != nil {
		return RedisTarget{}, err
	}
	if len(a.path) == 0 {
		return RedisTarget{}, errors.New("names no socket")
	}
	db, err := database(a.query.Get("db"))
	if err != nil {
		return RedisTarget{}, err
	}
	return RedisTarget{Single: &redis.Options{
		Network: "unix", Addr: a.rawPath, Username: a.user, Password: a.password, DB: db,
		ContextTimeoutEnabled: true, MaintNotificationsConfig: quiet(),
	}}, nil
}

func (a redisAddress) sentinel() (RedisTarget, error) {
	addrs, err := a.addrs("26379")
	if err != nil {
		return RedisTarget{}, err
	}
	if err := a.only("sentinel_username", "sentinel_password", "tls"); err != nil {
		return RedisTarget{}, err
	}
	if len(a.path) < 1 || len(a.path) > 2 {
		return RedisTarget{}, errors.New("its path has to be the master's name, and perhaps the number of a database")
	}
	db, err := database(strings.Join(a.path[1:], ""))
	if err != nil {
		return RedisTarget{}, err
	}
	// Without a server name the library takes the one of the node it dials.
	tlsConfig, err := a.tls("")
	if err != nil {
		return RedisTarget{}, err
	}
	return RedisTarget{Sentinel: &redis.FailoverOptions{
		MasterName: a.path[0], SentinelAddrs: addrs, DB: db,
		Username: a.user, Password: a.password,
		SentinelUsername: a.query.Get("sentinel_username"), SentinelPassword: a.query.Get("sentinel_password"),
		TLSConfig: tlsConfig, ContextTimeoutEnabled: true,
	}}, nil
}

func (a redisAddress) cluster() (RedisTarget, error) {
	addrs, err := a.addrs("6379")
	if err != nil {
		return RedisTarget{}, err
	}
	if err := a.only("tls"); err != nil {
		return RedisTarget{}, err
	}
	if len(a.path) > 0 {
		return RedisTarget{}, errors.New("a cluster has no numbered databases")
	}
	tlsConfig, err := a.tls("")
	if err != nil {
		return RedisTarget{}, err
	}
	return RedisTarget{Cluster: &redis.ClusterOptions{
		Addrs: addrs, Username: a.user, Password: a.password, TLSConfig: tlsConfig,
		ContextTimeoutEnabled: true, ClusterStateReloadInterval: clusterReload,
		MaintNotificationsConfig: quiet(),
	}}, nil
}

// quiet switches off the client library's handshake for maintenance notices,
// which only one vendor's cloud answers.
func quiet() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// maskRedis masks the passwords of an address. One that ParseRedis refuses is
// masked whole, since nobody knows where its password is.
func maskRedis(s string) string {
	if _, err := ParseRedis(s); err != nil {
		return mask
	}
	scheme, rest, _ := strings.Cut(s, "://")
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, _, _ := strings.Cut(authority[:at], ":")
		authority = user + ":" + mask + authority[at:]
	}
	out := scheme + "://" + authority
	if hasPath {
		out += "/" + path
	}
	if hasQuery {
		parts := strings.Split(query, "&")
		for i, p := range parts {
			if k, _, _ := strings.Cut(p, "="); k == "sentinel_password" {
				parts[i] = k + "=" + mask
			}
		}
		out += "?" + strings.Join(parts, "&")
	}
	return out
}
