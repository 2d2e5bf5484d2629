package store_test

import (
	"time"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/store"
)

// smallHalves are those scripts that move less than a job: see halves.
var smallHalves = map[string]func(h *half) func(){
	"renew, running": func(h *half) func() {
		k := h.busy()
		h.now = h.now.Add(time.Second)
		return func() { _, err := h.Renew(h.Context(), []tasks.Ticket{k}); must(h.T, err) }
	},
	"renew, held": func(h *half) func() {
		k := h.submit(h.prompt("job_1", "acme"), h.prompt("job_2", "acme"))
		return func() { _, err := h.Renew(h.Context(), k); must(h.T, err) }
	},
	"leave": func(h *half) func() {
		k := h.busy()
		return func() { must(h.T, h.Leave(h.Context(), []tasks.Ticket{k})) }
	},
	"reissue": func(h *half) func() {
		k := h.submit(h.prompt("job_1", "acme"))[0]
		h.now = h.now.Add(time.Second)
		return func() { _, _, err := h.Reissue(h.Context(), k); must(h.T, err) }
	},
	"append": func(h *half) func() {
		k := h.busy()
		must(h.T, h.Listen(h.Context(), k.ID))
		return func() { _, err := h.Append(h.Context(), k, 1, 0, "text"); must(h.T, err) }
	},
	"append, of another call": func(h *half) func() {
		k := h.busy()
		must(h.T, h.Listen(h.Context(), k.ID))
		_, err := h.Append(h.Context(), k, 1, 0, "text")
		must(h.T, err)
		return func() { _, err := h.Append(h.Context(), k, 2, 0, "text"); must(h.T, err) }
	},
	"events": func(h *half) func() {
		k := h.busy()
		_, _, err := h.AppendEvents(h.Context(), k, 1, 0, []byte("event"), tasks.StreamOpen)
		must(h.T, err)
		return func() {
			_, _, err := h.AppendEvents(h.Context(), k, 1, 5, []byte("more"), tasks.StreamWhole)
			must(h.T, err)
		}
	},
	"events, the first": func(h *half) func() {
		k := h.busy()
		return func() {
			_, _, err := h.AppendEvents(h.Context(), k, 1, 0, []byte("event"), tasks.StreamOpen)
			must(h.T, err)
		}
	},
	"keep": func(h *half) func() {
		h.busy()
		return func() { must(h.T, h.KeepAnswer(h.Context(), "acme", "d", "job_2", []byte("{}"), time.Minute)) }
	},
	"answer_save": func(h *half) func() {
		h.busy()
		return func() { must(h.T, h.SaveAnswer(h.Context(), "acme", "key job_2", "job_2", []byte("{}"))) }
	},
	"keys_rotate": func(h *half) func() {
		h.hook("acme")
		return func() {
			_, err := h.RotateKeys(h.Context(), "acme", "whe_acme", tasks.SigningKeys{Secret: "whsec_2"})
			must(h.T, err)
		}
	},
	"keys_rotate, the tenant's": func(h *half) func() {
		return func() {
			_, err := h.TenantKeys(h.Context(), "acme")
			must(h.T, err)
		}
	},
	"delivery_renew": func(h *half) func() {
		k := h.sent()
		return func() { must(h.T, h.RenewDeliveries(h.Context(), []tasks.DeliveryTicket{k})) }
	},
	"delivery_again": func(h *half) func() {
		k := h.sent()
		_, err := h.SettleDeliveries(h.Context(), []tasks.Settled{{Ticket: k, Status: tasks.DeliveryExhausted, Counted: true, Reason: "x"}})
		must(h.T, err)
		return func() { _, err := h.Redeliver(h.Context(), "acme", k.ID); must(h.T, err) }
	},
	"delivery_again, of one that waits": func(h *half) func() {
		k := h.sent()
		_, err := h.SettleDeliveries(h.Context(), []tasks.Settled{{Ticket: k, Status: tasks.DeliveryPending, Delay: time.Minute, Counted: true, Reason: "x"}})
		must(h.T, err)
		return func() { _, err := h.Redeliver(h.Context(), "acme", k.ID); must(h.T, err) }
	},
	"act_note": func(h *half) func() {
		return func() {
			must(h.T, h.Note(h.Context(), tasks.Act{ID: store.NewIDAt("act", h.now), At: h.now, By: "ada", Action: "pause", Target: pool}))
		}
	},
	"content_add": func(h *half) func() {
		must(h.T, h.AddContent(h.Context(), "acme", "file-1", []byte("a"), tasks.Limits{}))
		return func() { _ = h.AddContent(h.Context(), "acme", "file-1", []byte("b"), tasks.Limits{}) }
	},
	"content_drop": func(h *half) func() {
		must(h.T, h.AddContent(h.Context(), "acme", "file-1", []byte("a"), tasks.Limits{}))
		return func() {
			_ = h.DropDocument(h.Context(), tasks.Document{ID: "file-1", Tenant: "acme", Kind: tasks.FileDocument})
		}
	},
	"seal_key": func(h *half) func() {
		s := sealing(h.T, h.watched, "a")
		return func() { _, err := s.Sealed(h.Context(), "acme", "id", []byte("x")); must(h.T, err) }
	},
	"seal_drop": func(h *half) func() {
		s := sealing(h.T, h.watched, "a")
		_, err := s.Sealed(h.Context(), "acme", "id", []byte("x"))
		must(h.T, err)
		return func() { must(h.T, s.ForgetKey(h.Context(), "acme")) }
	},
	"seal_known": func(h *half) func() {
		s := store.New(store.Config{Redis: h.watched, Now: func() time.Time { return h.now }, Seal: ringOf(h.T, "a")})
		return func() { must(h.T, s.TellKeys(h.Context(), "one")) }
	},
	"seal_wrap": func(h *half) func() {
		_, err := sealing(h.T, h.watched, "a").Sealed(h.Context(), "acme", "id", []byte("x"))
		must(h.T, err)
		s := sealing(h.T, h.watched, "a", "b")
		return func() { _, _, _, err := s.Rotate(h.Context(), 0); must(h.T, err) }
	},
	"key_reserve": func(h *half) func() {
		return func() { _, err := h.ReserveKey(h.Context(), "acme", "key", "f", "bulk_1"); must(h.T, err) }
	},
	"document_claim": func(h *half) func() {
		return func() {
			_, _ = h.ClaimDocument(h.Context(), tasks.Document{ID: "upload-1", Tenant: "acme", Kind: tasks.UploadDocument, Body: []byte("a"), Expires: time.Hour})
		}
	},
	"tenant_save": func(h *half) func() {
		h.submit(h.prompt("job_1", "few"), h.prompt("job_2", "few"))
		return func() { h.set("few", tasks.TenantSettings{RunningJobs: new(int64)}) }
	},
	"document_put": func(h *half) func() {
		return func() {
			_ = h.PutDocument(h.Context(), tasks.Document{ID: "file-1", Tenant: "acme", Kind: tasks.FileDocument, Body: []byte("a"), Expires: time.Hour})
		}
	},
	"conduct_save": func(h *half) func() {
		list := []tasks.Conduct{{Tenant: "acme", Data: []byte("a"), Found: true}, {Tenant: "other", Data: []byte("b")}}
		return func() { _, _, err := h.SaveConducts(h.Context(), list); must(h.T, err) }
	},
	"conduct_save, to a review": func(h *half) func() {
		c := tasks.Conduct{Tenant: "acme", Data: []byte("a"), Held: time.Hour}
		return func() { _, _, err := h.SaveConducts(h.Context(), []tasks.Conduct{c}); must(h.T, err) }
	},
	"conduct_save, out of a review": func(h *half) func() {
		h.submit(h.prompt("job_1", "acme"))
		_, _, err := h.SaveConducts(h.Context(), []tasks.Conduct{{Tenant: "acme", Data: []byte("a"), Held: time.Hour}})
		must(h.T, err)
		c := tasks.Conduct{Tenant: "acme", Version: 1, Data: []byte("a")}
		return func() { _, _, err := h.SaveConducts(h.Context(), []tasks.Conduct{c}); must(h.T, err) }
	},
	"conduct_save, by an act": func(h *half) func() {
		c := tasks.Conduct{Tenant: "acme", Data: []byte("a"), Found: true}
		return func() {
			_, err := h.ChangeConduct(h.Context(), c, tasks.Act{At: h.now, By: "ada", Action: "release_tenant", Target: "acme"})
			must(h.T, err)
		}
	},
	"tenant_close": func(h *half) func() {
		return func() { _ = h.CloseTenant(h.Context(), "acme", tasks.Act{At: h.now, By: "ada"}) }
	},
	"tenant_jobs":       func(h *half) func() { return h.leaving(`"most":10,`) },
	"tenant_batches":    func(h *half) func() { return h.leaving(`"most":2000,`) },
	"tenant_deliveries": func(h *half) func() { return h.leaving(`"most":100,"patience"`) },
	"tenant_names":      func(h *half) func() { return h.leaving(`"cursor":"0","most":500,`) },
	"tenant_open": func(h *half) func() { // of which only settings are left
		h.set("acme", tasks.TenantSettings{RunningJobs: new(int64)})
		must(h.T, h.CloseTenant(h.Context(), "acme", tasks.Act{At: h.now, By: "ada"}))
		h.now = h.now.Add(11 * time.Second)
		h.only = `"reason\":\"deleted`
		return func() { must(h.T, h.GoOnDeleting(h.Context())) }
	},
	"token_save": func(h *half) func() {
		return func() { h.token("tok_1") }
	},
	"token_revoke": func(h *half) func() {
		h.token("tok_1")
		return func() {
			must(h.T, h.RevokeToken(h.Context(), "tok_1", time.Hour, tasks.Act{At: h.now, By: "ada", Action: "revoke_token", Target: "tok_1"}))
		}
	},
	"audit_turn": func(h *half) func() {
		h.busy()
		return h.audit(`"begin":true`)
	},
	"audit_scan": func(h *half) func() {
		h.busy()
		must(h.T, h.rdb.ZRem(h.Context(), "sluice:{s}:tn:acme", "job_2").Err())
		return h.audit(`"cursor":`)
	},
	"forecast": func(h *half) func() {
		k := h.submit(h.prompt("job_1", "acme"), h.prompt("job_2", "acme"), h.prompt("job_3", "acme"))[0]
		told := func(id string) tasks.Forecast {
			return tasks.Forecast{Job: id, At: h.now, Predicted: 2 * time.Second, Told: 2 * time.Second, Late: 3 * time.Second}
		}
		_, _, err := h.Foretold(h.Context(), pool, []tasks.Forecast{told("job_1"), told("job_2"), told("job_9")})
		must(h.T, err)
		h.now = h.now.Add(2 * time.Second)
		h.run(k)
		h.now = h.now.Add(time.Second)
		return func() { _, _, err := h.Foretold(h.Context(), pool, []tasks.Forecast{told("job_3")}); must(h.T, err) }
	},
	"create, a user's": func(h *half) func() {
		h.adas("job_1")
		return func() { h.adas("job_2") }
	},
	"start, a user's": func(h *half) func() {
		k := h.adas("job_1")[0]
		_, err := h.Take(h.Context(), k)
		must(h.T, err)
		return func() { _, _, err := h.Start(h.Context(), k); must(h.T, err) }
	},
	"end, a user's": func(h *half) func() {
		k := h.run(h.adas("job_1")[0])
		h.adas("job_2")
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: 3}})
			must(h.T, err)
		}
	},
	"requeue, a user's": func(h *half) func() {
		h.adas("job_1", "job_2")
		_, err := h.Cancel(h.Context(), "acme/ada", "job_1")
		must(h.T, err)
		return func() { _, _, err := h.Requeue(h.Context(), "acme/ada", "job_1", adasLimits); must(h.T, err) }
	},
	"batch_commit, a user's": func(h *half) func() {
		_, _, err := h.OpenBatch(h.Context(), "batch_1", "acme/ada", "key of the batch")
		must(h.T, err)
		j := h.prompt("job_line", "acme")
		j.User, j.Batch, j.Line = "ada", "batch_1", 1
		must(h.T, h.StageBatch(h.Context(), "batch_1", []tasks.Job{j}, adasLimits))
		return func() {
			_, err := h.CommitBatch(h.Context(), "batch_1", tasks.BatchCommit{Fingerprint: "f", Limits: adasLimits})
			must(h.T, err)
		}
	},
	"create, of a tenant at its limit": func(h *half) func() {
		h.submit(h.prompt("job_1", "few"))
		return func() { h.submit(h.prompt("job_2", "few")) }
	},
	"end, of a tenant at its limit": func(h *half) func() {
		k := h.run(h.submit(h.prompt("job_1", "few"))[0])
		h.submit(h.prompt("job_2", "few"))
		return func() {
			_, err := h.End(h.Context(), k, tasks.Ending{Status: tasks.StatusSucceeded, Result: []byte(`{}`), Usage: &tasks.Usage{InputTokens: 3}})
			must(h.T, err)
		}
	},
	"renew, of a tenant that has a limit since": func(h *half) func() {
		k := h.run(h.submit(h.prompt("job_1", "few"))[0])
		must(h.T, h.rdb.HDel(h.Context(), "sluice:{s}:j:job_1", "pl").Err())
		return func() { _, err := h.Renew(h.Context(), []tasks.Ticket{k}); must(h.T, err) }
	},
	"start, into a bundle": func(h *half) func() {
		h.submit(h.prompt("job_1", "few"))
		j := h.prompt("job_2", "acme")
		k := into(h.submit(j)[0], "a", "nb_1", h.now.Add(time.Hour))
		_, err := h.Take(h.Context(), k)
		must(h.T, err)
		return func() { _, _, err := h.Start(h.Context(), k); must(h.T, err) }
	},
	"bundle_claim": func(h *half) func() {
		h.inBundle()
		return func() { _, _, err := h.ClaimBundle(h.Context(), pool, time.Minute); must(h.T, err) }
	},
	"bundle_save": func(h *half) func() {
		b := h.inBundle()
		return func() { b.State = tasks.BundleSent; must(h.T, h.SaveBundle(h.Context(), b, time.Minute)) }
	},
	"bundle_save, done": func(h *half) func() {
		b := h.inBundle()
		return func() { must(h.T, h.DropBundle(h.Context(), b)) }
	},
	"paused": func(h *half) func() {
		return func() { must(h.T, h.SetPaused(h.Context(), pool, true)) }
	},
	"call_open": func(h *half) func() {
		return func() {
			_, err := h.OpenCall(h.Context(), tasks.Call{Tenant: "acme", ID: "job_1", Digest: "d"})
			must(h.T, err)
		}
	},
	"call_hold": func(h *half) func() {
		c := tasks.Call{Tenant: "acme", ID: "job_1", Digest: "d"}
		_, err := h.OpenCall(h.Context(), c)
		must(h.T, err)
		h.now = h.now.Add(time.Second)
		return func() { must(h.T, h.HoldCall(h.Context(), c, tasks.CallerWaits)) }
	},
	"call_sweep": func(h *half) func() {
		h.busy()
		_, err := h.OpenCall(h.Context(), tasks.Call{Tenant: "acme", ID: "job_3", Digest: "d"})
		must(h.T, err)
		h.now = h.now.Add(10 * time.Minute)
		return func() { _, err := h.SweepCalls(h.Context()); must(h.T, err) }
	},
	"watch": func(h *half) func() {
		return func() { _, err := h.Watch(h.Context(), true, pool); must(h.T, err) }
	},
	"past": func(h *half) func() {
		must(h.T, h.Bound(h.Context(), tasks.WatchTurn{Pool: pool}, tasks.Bind{For: tasks.WaitRequests, Shares: 1}))
		h.now = h.now.Add(time.Minute)
		return func() {
			must(h.T, h.Bound(h.Context(), tasks.WatchTurn{Pool: pool, Since: 10 * time.Second}, tasks.Bind{For: tasks.WaitPaused, Shares: 1}))
		}
	},
}

// leaving is the deletion of a tenant that has all that one can have, of which the script is meant
// that has these arguments.
func (h *half) leaving(only string) func() {
	h.busy()
	must(h.T, h.CloseTenant(h.Context(), "acme", tasks.Act{At: h.now, By: "ada"}))
	h.now = h.now.Add(11 * time.Second)
	h.only = only
	return func() { must(h.T, h.GoOnDeleting(h.Context())) }
}

// inBundle is a bundle that a worker has taken up, and that is due again.
func (h *half) inBundle() tasks.Bundle {
	h.Helper()
	k := into(h.submit(h.prompt("job_1", "acme"))[0], "a", "nb_1", h.now.Add(time.Hour))
	_, err := h.Take(h.Context(), k)
	must(h.T, err)
	_, _, err = h.Start(h.Context(), k)
	must(h.T, err)
	h.now = h.now.Add(2 * time.Minute)
	b, _, err := h.ClaimBundle(h.Context(), pool, time.Minute)
	must(h.T, err)
	h.now = h.now.Add(2 * time.Minute)
	return b
}

func (h *half) token(id string) {
	h.Helper()
	must(h.T, h.SaveToken(h.Context(), tasks.Token{ID: id, Tenant: "acme", Expires: h.now.Add(time.Hour)}, tasks.Act{At: h.now, By: "ada", Action: "create_token", Target: id}))
}

func (h *half) set(tenant string, set tasks.TenantSettings) {
	h.Helper()
	must(h.T, h.SetTenant(h.Context(), tenant, set, 2, tasks.Places{Tenant: 3}, tasks.Act{At: h.now, By: "ada", Action: "set_tenant", Target: tenant}))
}

var adasLimits = tasks.Limits{QueuedJobs: 100, TokensPerDay: 1000, User: tasks.UserLimits{QueuedJobs: 9, TokensPerDay: 500, CostPerDay: 500}}

// adas are jobs that are one user's alone.
func (h *half) adas(ids ...string) []tasks.Ticket {
	h.Helper()
	var subs []tasks.Submission
	for _, id := range ids {
		j := h.prompt(id, "acme")
		j.User = "ada"
		subs = append(subs, tasks.Submission{Job: j, Limits: adasLimits})
	}
	made, next, err := h.Create(h.Context(), subs...)
	must(h.T, err)
	for i := range made {
		must(h.T, made[i].Err)
	}
	return next
}
