package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks/pipeline"
)

var (
	beatScript = script("beat")
	tryScript  = script("try")
)

// beatKept is how long a heartbeat is remembered, for whoever looks into Redis.
const beatKept = time.Hour

// Room is how Redis's memory stands, in bytes.
type Room struct {
	Used     int64 // in use
	Promised int64 // that the results of accepted jobs will take, as far as is known
	Most     int64 // maxmemory; 0: nothing limits it, or it does not say
	// Full is true from 95 % of Most on, until no more than 92 % are in use: pools are
	// to be paused.
	Full bool
}

// Intake is the part of [Room.Most] above which nothing is taken in: used and promised
// together stay below it.
const Intake = 0.9

// Pulse is what a heartbeat finds.
type Pulse struct {
	At   time.Time // by Redis's clock, to a millisecond; zero when Redis has not said it
	Room Room      // likewise
}

// Beat reports whether Redis takes what takes work in: a write by script, with a
// word to the other processes. It is one round trip, and also says what time it is and
// how its memory stands, beside an error too where Redis has answered.
func (s *Store) Beat(ctx context.Context) (p Pulse, err error) {
	said, err := s.run(ctx, beatScript, args{"keep": beatKept.Milliseconds(), "least": min(unseenResult, weighed(s.resultBytes)), "small": smallRedis}).Slice()
	if err != nil {
		return Pulse{}, err
	}
	if len(said) != 6 {
		return Pulse{}, redisError(fmt.Errorf("a beat has %d values", len(said)))
	}
	if against := str(said[1]); against != "" {
		err = redisError(errors.New(against))
	}
	return Pulse{
		At:   fromMilli(num(said[0])),
		Room: Room{Full: num(said[2]) == 1, Used: num(said[3]), Promised: num(said[4]), Most: num(said[5])},
	}, err
}

// trials are the commands that the scripts of Sluice and of Asynq call, each with
// the kind of its key and what else makes it a harmless one; "@" is that key once more,
// or without one a key that is not there.
var trials = [][]string{
	{"SET", "string", "1"}, {"GET", "string"}, {"APPEND", "string", "1"}, {"GETRANGE", "string", "0", "1"}, {"SETRANGE", "string", "0", "1"}, {"STRLEN", "string"}, {"SETEX", "string", "60", "1"}, {"INCR", "string"},
	{"EXISTS", "string"}, {"PERSIST", "string"}, {"PTTL", "string"}, {"EXPIRE", "string", "60"}, {"PEXPIRE", "string", "60000"},
	{"EXPIREAT", "string", "32503680000"}, {"PEXPIREAT", "string", "32503680000000"},
	{"HSET", "hash", "f", "1"}, {"HSETNX", "hash", "f", "1"}, {"HGET", "hash", "f"}, {"HMGET", "hash", "f"}, {"HGETALL", "hash"},
	{"HINCRBY", "hash", "f", "1"}, {"HSTRLEN", "hash", "f"}, {"HEXISTS", "hash", "f"}, {"HLEN", "hash"}, {"HKEYS", "hash"}, {"HRANDFIELD", "hash", "1"}, {"HDEL", "hash", "f"},
	{"ZADD", "zset", "1", "m"}, {"ZINCRBY", "zset", "1", "m"}, {"ZSCORE", "zset", "m"}, {"ZCARD", "zset"}, {"ZCOUNT", "zset", "0", "1"}, {"ZMSCORE", "zset", "m"}, {"ZRANK", "zset", "m"},
	{"ZRANGE", "zset", "0", "-1"}, {"ZREVRANGE", "zset", "0", "-1"}, {"ZREVRANGEBYLEX", "zset", "+", "-"}, {"ZLEXCOUNT", "zset", "-", "+"}, {"ZRANGEBYSCORE", "zset", "0", "1"}, {"ZPOPMIN", "zset"},
	{"ZDIFF", "", "1", "@"}, {"ZINTER", "", "1", "@"}, {"ZREM", "zset", "m"}, {"ZREMRANGEBYSCORE", "zset", "0", "1"}, {"ZREMRANGEBYRANK", "zset", "0", "1"},
	{"LPUSH", "list", "m"}, {"RPUSH", "list", "m"}, {"LLEN", "list"}, {"LRANGE", "list", "0", "-1"}, {"LINDEX", "list", "0"}, {"LSET", "list", "0", "m"}, {"RPOP", "list"}, {"RPOPLPUSH", "list", "@"},
	{"LREM", "list", "0", "m"}, {"LTRIM", "list", "0", "1"},
	{"SADD", "set", "m"}, {"SREM", "set", "m"}, {"SMEMBERS", "set"},
	{"TIME", ""}, {"PUBSUB", "", "NUMSUB"}, {"SCAN", "", "0"},
	{"DEL", "string"}, {"DEL", "hash"}, {"DEL", "zset"}, {"DEL", "list"}, {"DEL", "set"},
}

// Missing tries every command that is needed of this prefix's keys, and a channel,
// and returns what Redis does not permit, in the words of an ACL: "+hset",
// "~sluice:*", "&sluice:*". The error is one of reaching Redis.
func (s *Store) Missing(ctx context.Context) ([]string, error) {
	prefix, _, _ := strings.Cut(string(s.keys), ":")
	var grants []string
	add := func(command, said string) {
		if g := Grant(prefix, command, said); g != "" && !slices.Contains(grants, g) {
			grants = append(grants, g)
		}
	}
	failed, err := s.run(ctx, tryScript, args{"calls": trials}).StringSlice()
	if errors.Is(err, pipeline.ErrAlone) && redis.IsPermissionError(err) {
		return []string{"+wait"}, nil // the script's answer does not count without
	}
	if redis.IsPermissionError(err) { // before the script had its turn
		add("eval", err.Error())
		add("evalsha", err.Error())
		return grants, nil
	}
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(failed); i += 2 {
		add(strings.ToLower(failed[i]), failed[i+1])
	}
	if _, err := s.Beat(ctx); err != nil {
		add("publish", err.Error())
	}
	return grants, nil
}

// Grant returns the rule of an ACL that permits what a command was refused for, by
// what Redis says of it; "" where it was not refused. Redis 6 and 7, and a script
// and a caller, say it in different words.
func Grant(prefix, command, said string) string {
	switch denied := strings.Contains(said, "NOPERM") || strings.Contains(said, "ACL failure") || strings.Contains(said, "user executing the script can't"); {
	case !denied:
		return ""
	case strings.Contains(said, "channel"):
		return "&" + prefix + ":*"
	case strings.Contains(said, "of the keys"), strings.Contains(said, "access a key"):
		return "~" + prefix + ":*"
	}
	return "+" + command
}
