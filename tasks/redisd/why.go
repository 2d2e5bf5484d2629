package redisd

import (
	"context"
	"errors"
	"net"
	"strings"
)

// refusals are the beginnings of what Redis says when it does not do as asked,
// or what its text holds, and what that means for an operator.
var refusals = []struct{ said, means string }{
	{"WRONGPASS", "Redis refuses the user or the password: see redis.url"},
	{"NOAUTH", "Redis refuses the user or the password: see redis.url"},
	{"invalid password", "Redis refuses the user or the password: see redis.url"},
	{"NOPERM", "Redis does not permit this user what Sluice needs"},
	{"user executing the script can't", "Redis does not permit this user what Sluice needs"},
	{"ACL failure", "Redis does not permit this user what Sluice needs"},
	{"unknown command", "Redis does not know a command that Sluice needs"},
	{"Unknown Redis command", "Redis does not know a command that Sluice needs"},
	{"READONLY", "Redis is a read-only replica: redis.url has to lead to the primary"},
	{"NOREPLICAS", "Redis has fewer replicas than it wants for a write (min-replicas-to-write)"},
	{"no replica confirms", "no replica of Redis confirms in time what is written: jobs are taken when one does again"},
	{"OOM", "Redis is full (maxmemory) and takes no writes"},
	{"MISCONF", "Redis cannot write its disk and takes no writes"},
	{"LOADING", "Redis loads its data"},
	{"MASTERDOWN", "Redis is a replica without its primary"},
	{"CLUSTERDOWN", "the Redis cluster is down"},
	{"max number of clients", "Redis has no connection left (maxclients)"},
	{"BUSY", "Redis is busy with a script"},
	{"all sentinels", "no Sentinel knows the primary"},
	{"the gate's state has version", "a newer release has written the gate's state: run that release here too"},
	{"x509:", "the certificate of Redis is not trusted"},
	{"tls:", "Redis does not speak TLS as this process does"},
}

// Why says in words why Redis, or the way to it, gave an error in place of an
// answer. The words hold no address, user or key, so anybody may read them.
func Why(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, r := range refusals {
		if strings.Contains(text, r.said) {
			return r.means
		}
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "Redis does not answer in time"
	case errors.As(err, &network), strings.Contains(text, "dial"), strings.Contains(text, "EOF"), strings.Contains(text, "connection"):
		return "Redis cannot be reached"
	}
	return "Redis answers with an error, which is in the log"
}

// Refuses reports whether Redis does not do at all what it was asked, for this
// user or for anybody, whatever its state.
func Refuses(err error) bool {
	why := Why(err)
	return strings.Contains(why, "does not permit") || strings.Contains(why, "does not know")
}
