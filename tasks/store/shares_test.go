package store_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// sharesOf reads how tenants share the pool, by name.
func (s *server) sharesOf() (tasks.Shares, map[string]tasks.TenantShare) {
	s.Helper()
	out, err := s.Shares(s.Context(), pool, s.now)
	must(s.T, err)
	of := map[string]tasks.TenantShare{}
	for _, t := range out.Tenants {
		of[t.Tenant] = t
	}
	return out, of
}

// What is told of a pool's tenants is what their calls took in the last minute and the last
// hour, with a backlog and without; the index is of those with a backlog throughout.
func TestSharesAreWhatCallsTook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size  int64 // output tokens: a thousand are a second of the allowance
		while time.Duration
		piece float64 // s that are counted in part
	}{
		"of the last minute": {1000, time.Minute, 10},
		"of the last hour":   {60_000, time.Hour, 600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, 2, map[string]int64{"heavy": 3})
			s.submit("heavy", 120, c.size, c.size)
			s.submit("other", 120, 2*c.size, 2*c.size)
			type call struct {
				at     time.Time
				tenant string
				took   float64
			}
			var calls []call
			begun := s.now
			for n := 0; s.now.Sub(begun) < c.while*3/2; n++ {
				if n%16 == 5 {
					s.submit("light", 1, c.size/2, c.size/2)
				}
				before := map[string]float64{"heavy": s.served["heavy"], "other": s.served["other"], "light": s.served["light"]}
				s.one(won)
				for tenant, had := range before {
					if more := s.served[tenant] - had; more > 0 {
						calls = append(calls, call{s.now, tenant, more})
					}
				}
			}
			want, sum := map[string]float64{}, 0.0
			for _, one := range calls {
				if one.at.After(s.now.Add(-c.while)) {
					want[one.tenant] += one.took
				}
				sum += one.took
			}
			all, of := s.sharesOf()
			lag := 0.0
			for tenant, seconds := range want {
				got := of[tenant]
				if c.while == time.Hour && math.Abs(got.Hour-seconds) > c.piece/4 || c.while == time.Minute && (math.Abs(got.Minute-seconds) > c.piece/4 || math.Abs(got.Hour-s.served[tenant]) > 1e-3) {
					t.Errorf("%s was served %.1f s; told are %.1f in the minute and %.1f in the hour, of %.1f in all", tenant, seconds, got.Minute, got.Hour, s.served[tenant])
				}
				if c.while == time.Minute && math.Abs(got.Share-s.served[tenant]/sum) > 1e-3 {
					t.Errorf("%s has a share of %.3f, want %.3f", tenant, got.Share, s.served[tenant]/sum)
				}
				lag += got.Lag
			}
			if h, o := of["heavy"], of["other"]; h.Weight != 3 || o.Weight != 1 || !h.Since.Equal(begun) || h.Queued == 0 || math.Abs(h.Lag) > 2*s.largest["other"] || math.Abs(lag) > 1e-6 {
				t.Errorf("heavy is %+v, other %+v", h, o)
			}
			if c.while == time.Minute && (all.Minute < 0.98 || all.Hour != 0) || c.while == time.Hour && all.Hour < 0.98 {
				t.Errorf("Jain's index %.3f of the minute and %.3f of the hour", all.Minute, all.Hour)
			}
		})
	}
}

// Who only now has a backlog, and whose backlog is over, is in no index, and has no lag where
// nothing waits; who does nothing for an hour is told of no more.
func TestSharesTellWhoHasABacklog(t *testing.T) {
	t.Parallel()
	s := newServer(t, 2, nil)
	must(t, s.rdb.Set(t.Context(), "sluice:{s}:turn:"+pool, "4711.5", 0).Err()) // as release 0.1.0 leaves it
	begun := s.now
	s.submit("a", 40, 4000, 4000)
	s.submit("b", 6, 4000, 4000)
	for s.now.Sub(begun) < 50*time.Second {
		s.one(won)
	}
	late := s.now
	s.submit("c", 20, 4000, 4000)
	for s.now.Sub(begun) < 80*time.Second {
		s.one(won)
	}
	all, of := s.sharesOf()
	if all.Minute != 0 {
		t.Errorf("Jain's index of one tenant with a backlog throughout is %.3f", all.Minute)
	}
	if a, b, c := of["a"], of["b"], of["c"]; a.Since.Sub(begun).Abs() > time.Second || c.Since.Sub(late).Abs() > time.Second || !b.Since.IsZero() || b.Lag != 0 || b.Queued != 0 || b.Hour != 24 {
		t.Errorf("a %+v\nb %+v\nc %+v", a, b, c)
	}
	for s.one(won) {
	}
	s.now = s.now.Add(70 * time.Minute)
	if all, of := s.sharesOf(); len(of) != 0 || all.Others != 0 {
		t.Errorf("an hour later: %+v", all)
	}
}

// Of very many tenants the most served are told, and the rest as one.
func TestSharesAreOfSoManyTenants(t *testing.T) {
	t.Parallel()
	s := newServer(t, 2, nil)
	s.submit("acme", 3, 1000, 1000)
	at := s.now.Unix() / 600
	fields := map[string]any{}
	for i := range 1500 {
		fields[fmt.Sprint("\tt", i)] = fmt.Sprintf("%d:2000000 %d:%d", s.now.Unix()/10, at, 5000000+i)
	}
	must(t, s.rdb.HSet(t.Context(), "sluice:{s}:n:"+pool, fields).Err())
	must(t, s.rdb.ZAdd(t.Context(), "sluice:{s}:run:"+pool, redis.Z{Score: 1, Member: "job_gone"}).Err())
	all, of := s.sharesOf()
	if len(of) != tasks.MostShares || all.Others != 501 || math.Abs(all.OthersMinute-1000) > 1e-6 || of["t1499"].Hour != 5.001499 {
		t.Errorf("%d tenants and %d others, who were served %.1f s: %+v", len(of), all.Others, all.OthersMinute, of["t1499"])
	}
}
