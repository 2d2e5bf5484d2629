package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/bodies"
	"github.com/sluicehq/sluice/tasks/pipeline"
)

var (
	createScript  = script("create")
	takeScript    = script("take")
	startScript   = script("start")
	endScript     = script("end")
	renewScript   = script("renew")
	leaveScript   = script("leave")
	cancelScript  = script("cancel")
	requeueScript = script("requeue")
	deleteScript  = script("delete")
	sweepScript   = script("sweep")
	reissueScript = script("reissue")
)

var tokensScript = script("tokens")

var pausedScript = script("paused")

var saveAnswerScript = script("answer_save")

// submission is a submission as the script takes it.
func (s *Store) submission(ctx context.Context, sub *tasks.Submission) ([]any, error) {
	j := &sub.Job
	field, body, err := s.prompt(ctx, j)
	if err != nil {
		return nil, err
	}
	envelope, err := s.pack(ctx, j)
	if err != nil {
		return nil, err
	}
	key, print, err := s.reservation(ctx, j.Owner(), sub.Key, sub.Fingerprint)
	if err != nil {
		return nil, err
	}
	return []any{
		j.ID, j.Tenant, j.Pool, s.depthOf(j.Pool), laneShift(j.Priority), milli(j.NotBefore),
		milli(j.Deadline), envelope, body, key, print, sub.Limits.QueuedJobs, len(j.Fallback),
		j.Reserved, sub.Limits.TokensPerDay, s.weight(j.Tenant), flag(sub.Named),
		counted(j, sub.Limits), sub.Limits.QueuedBytes, field, s.costOf(j),
	}, nil
}

// others are what few submissions have: by tenants their budgets, and by owners limits of their own; by jobs the users whose they
// alone are, and what stands for the call of one whose caller waits.
type others struct {
	budgets      map[string]tasks.Money
	own          map[string][3]int64 // by owner, see ownLimits
	users, calls map[string]string
}

// submissions are the rows of several, and what few of them have.
func (s *Store) submissions(ctx context.Context, subs []tasks.Submission) (rows []any, o others, err error) {
	rows, o = make([]any, 0, 21*len(subs)), others{map[string]tasks.Money{}, map[string][3]int64{}, map[string]string{}, map[string]string{}}
	for i := range subs {
		row, err := s.submission(ctx, &subs[i])
		if err != nil {
			return nil, o, err
		}
		rows = append(rows, row...)
		if b := subs[i].Limits.CostPerDay; b > 0 {
			o.budgets[subs[i].Job.Tenant] = b
		}
		if u := subs[i].Job.User; u != "" {
			o.users[subs[i].Job.ID] = u
			if own, some := ownLimits(subs[i].Limits); some {
				o.own[subs[i].Job.Owner()] = own
			}
		}
		if c := subs[i].Caller; c != nil {
			if o.calls[subs[i].Job.ID], err = s.callName(ctx, *c); err != nil {
				return nil, o, err
			}
		}
	}
	return rows, o, nil
}

// ownLimits are a user's own as scripts take them (admit in account.lua); false: there are none.
func ownLimits(l tasks.Limits) ([3]int64, bool) {
	own := [3]int64{l.User.QueuedJobs, l.User.TokensPerDay, int64(l.User.CostPerDay)}
	return own, own != [3]int64{}
}

// reservation is an Idempotency-Key and the fingerprint of its request as scripts take them.
func (s *Store) reservation(ctx context.Context, tenant, key, fingerprint string) (name, print string, err error) {
	if name, err = s.vault.names(ctx, tenant, ofKey, ofUser(tenant, key)); err == nil && key != "" {
		print, err = s.vault.names(ctx, tenant, ofPrint, fingerprint)
	}
	if err != nil {
		return "", "", fmt.Errorf("seal an Idempotency-Key: %w", err)
	}
	return name, print, nil
}

// ofUser is a name that an owner gives, as it stands among those of its tenant: a user's is
// none of another's.
func ofUser(owner, name string) string {
	_, user := tasks.SplitOwner(owner)
	if user == "" || name == "" {
		return name
	}
	return "\x00" + user + "\x00" + name
}

// first opens what was answered first to a request with an Idempotency-Key, nil where
// nothing is kept.
func (s *Store) first(ctx context.Context, tenant, id, answer string) ([]byte, error) {
	if answer == "" {
		return nil, nil
	}
	return s.vault.open(ctx, tenant, []byte(answer), ofFirst, id)
}

// Created is what became of one submission; Err is a *tasks.QuotaError,
// tasks.ErrKeyReused, ErrKeyBusy or ErrIDTaken, or why the key of its tenant is not there.
type Created struct {
	tasks.Accepted
	Err error
	// Place is a new job's place among its tenant's own in the backlog, 0 when it
	// was handed out at once; Tenants is how many share the pool's turns.
	Place, Tenants int64
}

// Create stores jobs, each whole or not at all, in one durable move, and hands
// out the tickets that there is room for; they may be of other jobs. A job's
// ID, Tenant, Pool and Request must be set. An error means that nothing was stored,
// unless it is ErrUnknown.
func (s *Store) Create(ctx context.Context, subs ...tasks.Submission) ([]Created, []tasks.Ticket, error) {
	refused := map[int]error{}
	for i := range subs {
		if err := s.vault.ready(ctx, subs[i].Job.Tenant); err != nil {
			refused[i] = fmt.Errorf("seal job %s: %w", subs[i].Job.ID, err)
		}
	}
	if len(refused) == 0 {
		return s.create(ctx, subs)
	}
	created, able := make([]Created, len(subs)), make([]tasks.Submission, 0, len(subs))
	for i, sub := range subs {
		if err := refused[i]; err != nil {
			s.discardText(sub.Job.Request.Lies)
			created[i] = Created{Accepted: tasks.Accepted{Job: sub.Job}, Err: err}
		} else {
			able = append(able, sub)
		}
	}
	if len(able) == 0 {
		return created, nil, nil
	}
	made, next, err := s.create(ctx, able)
	for i := range created {
		if refused[i] == nil && err == nil {
			created[i], made = made[0], made[1:]
		}
	}
	return created, next, err
}

// create is Create of jobs whose tenants' keys are there.
func (s *Store) create(ctx context.Context, subs []tasks.Submission) ([]Created, []tasks.Ticket, error) {
	jobs := make([]*tasks.Job, len(subs))
	for i := range subs {
		jobs[i] = &subs[i].Job
	}
	if err := s.Unload(ctx, jobs...); err != nil {
		return nil, nil, fmt.Errorf("create %d jobs: %w", len(subs), err)
	}
	rows, few, err := s.submissions(ctx, subs)
	if err != nil {
		for _, j := range jobs {
			s.discardText(j.Request.Lies)
		}
		return nil, nil, fmt.Errorf("create %d jobs: %w", len(subs), err)
	}
	var reply []any
	again := false
	err = Sure(ctx, "", func(ctx context.Context) (err error) {
		reply, err = s.run(ctx, createScript, args{
			"again": again, "budgets": few.budgets, "users": few.users, "own": few.own, "keep": answersKept.Milliseconds(), "calls": few.calls,
			"lease": tasks.CallerLease.Milliseconds(), "gone": tasks.CallerGone.Milliseconds(), "found": tasks.CallKept.Milliseconds(),
		}, rows...).Slice()
		again = true
		return err
	})
	if err != nil {
		if !errors.Is(err, tasks.ErrUnknown) { // of which the record may refer to them
			for _, j := range jobs {
				s.discardText(j.Request.Lies)
			}
		}
		return nil, nil, fmt.Errorf("create %d jobs: %w", len(subs), err)
	}
	created := make([]Created, len(subs))
	for i, o := range list(reply[0]) {
		o := list(o)
		if created[i] = s.became(ctx, subs[i], o); str(o[0]) != "new" {
			s.discardText(subs[i].Job.Request.Lies)
		}
	}
	return created, tickets(reply[1]), nil
}

// became is what the script made of a submission.
func (s *Store) became(ctx context.Context, sub tasks.Submission, o []any) (c Created) {
	c.Job = sub.Job
	switch str(o[0]) {
	case "new":
		c.Job.CreatedAt = fromMilli(num(o[1]))
		c.Job.Status, c.Job.DueAt = firstStatus(&c.Job)
		c.Place, c.Tenants = num(o[2]), num(o[3])
	case "replay":
		c.Replayed, c.Job.ID = true, str(o[1])
		c.Answer, c.Err = s.first(ctx, sub.Job.Tenant, c.Job.ID, str(o[2]))
	case "reused":
		c.Err = &tasks.ReusedError{ID: str(o[1])}
	case "busy":
		c.Err = tasks.ErrKeyBusy
	case "taken":
		c.Err = tasks.ErrIDTaken
	case "away":
		c.Err = redisError(errors.New(str(o[1])))
	default:
		c.Err = refused(sub.Limits, o)
	}
	return c
}

// counted is how many bytes of a job's body are counted for its tenant; 0 where
// nothing limits them.
func counted(j *tasks.Job, l tasks.Limits) int64 {
	if l.QueuedBytes <= 0 {
		return 0
	}
	return j.Bytes
}

// refused is a script's refusal to queue work past a tenant's limits, or past the room
// in Redis; nil: it has not refused.
func refused(l tasks.Limits, reply []any) error {
	word, own := strings.CutPrefix(str(reply[0]), "user ")
	of := ""
	if own {
		of, l = tasks.OfUsers, tasks.Limits{QueuedJobs: l.User.QueuedJobs, TokensPerDay: l.User.TokensPerDay, CostPerDay: l.User.CostPerDay}
	}
	switch word {
	case "full":
		full := &tasks.QuotaError{Quota: of + "queued_jobs", Limit: l.QueuedJobs, Remaining: max(0, l.QueuedJobs-num(reply[1])), RetryAfter: 10 * time.Second}
		if own {
			full.Others = max(0, num(reply[2]))
		}
		return full
	case "brim":
		return tasks.ErrFull
	case "leaving":
		return tasks.ErrLeaving
	case "heavy":
		return &tasks.QuotaError{Quota: "queued_bytes", Limit: l.QueuedBytes, Remaining: max(0, l.QueuedBytes-num(reply[1])), RetryAfter: 10 * time.Second}
	case "spent":
		return &tasks.QuotaError{
			Quota: of + "tokens_per_day", Limit: l.TokensPerDay, Remaining: num(reply[1]), Window: 24 * time.Hour,
			RetryAfter: time.Duration(num(reply[2])) * time.Millisecond,
		}
	case "broke":
		return &tasks.QuotaError{
			Quota: of + tasks.CostPerDay, Limit: int64(l.CostPerDay) / 1000, Remaining: num(reply[1]) / 1000, Window: 24 * time.Hour,
			RetryAfter: time.Duration(num(reply[2])) * time.Millisecond, ResetsAt: fromMilli(num(reply[3])),
		}
	}
	return nil
}

// Tokens reports how an owner's tokens of the day stand.
func (s *Store) Tokens(ctx context.Context, tenant string) (tasks.DayTokens, error) {
	reply, err := s.run(ctx, tokensScript, args{"tenant": tenant}).Slice()
	if err != nil {
		return tasks.DayTokens{}, fmt.Errorf("read the tokens of a day: %w", err)
	}
	day := tasks.DayTokens{Used: num(reply[0]), Reserved: num(reply[1]), ResetsIn: time.Duration(num(reply[2])) * time.Millisecond}
	if len(reply) > 3 {
		day.UserUsed, day.UserReserved = num(reply[3]), num(reply[4])
	}
	return day, nil
}

// SaveAnswer keeps what was answered to the first request with a key, for as
// long as the key stands for the job or batch of that id. The first one saved stays. A large
// one is not kept: it holds what lies outside of Redis, and a repeat can be answered
// with the job as it stands then.
func (s *Store) SaveAnswer(ctx context.Context, tenant, key, id string, answer []byte) error {
	if s.large(len(answer)) {
		return nil
	}
	name, _, err := s.reservation(ctx, tenant, key, "")
	if err == nil {
		answer, err = s.vault.seal(ctx, tenant, answer, ofFirst, id)
	}
	if err != nil {
		return fmt.Errorf("save the answer of a key: %w", err)
	}
	if err := s.run(ctx, saveAnswerScript, args{"tenant": tenant, "key": name, "id": id}, answer).Err(); err != nil {
		return fmt.Errorf("save the answer of a key: %w", err)
	}
	return nil
}

// move runs a script whose answer begins with what became of the move, and returns
// what stands behind that.
func (s *Store) move(ctx context.Context, act string, sc func() *redis.Script, a args, rows ...any) ([]any, error) {
	reply, err := s.run(ctx, sc, a, rows...).Slice()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", act, err)
	}
	return reply[1:], moveError(str(reply[0]))
}

// moveError turns a script's first word into an error.
func moveError(word string) error {
	switch word {
	case "ok":
		return nil
	case "gone":
		return tasks.ErrNotFound
	case "final", "expired":
		return tasks.ErrFinal
	case "conflict":
		return tasks.ErrConflict
	case "leaving":
		return tasks.ErrLeaving
	}
	return tasks.ErrLost
}

// Take gives the job of a ticket to a worker, to hold until the pace allows
// it. ErrFinal, ErrLost and ErrNotFound mean that the ticket is void: also that of a
// job whose prompt lies where it cannot be read now, and which waits for another.
func (s *Store) Take(ctx context.Context, t tasks.Ticket) (tasks.Job, error) {
	reply, err := s.move(ctx, "take job "+t.ID, takeScript, args{"id": t.ID, "fence": t.Fence, "lease": Lease.Milliseconds()})
	if err != nil {
		return tasks.Job{}, err
	}
	h := pairs(reply[0])
	j, err := s.unpack(ctx, t.ID, h)
	j.Lay = time.Duration(num(reply[1])) * time.Millisecond
	if err == nil {
		j.Request.Body, err = whole(j.Request.Body)
	}
	if lies := h["br"]; err == nil && lies != "" {
		j.Request.Body, err = s.fetch(ctx, j.Tenant, j.ID, bodies.Prompt, lies, 0)
	}
	if err == nil {
		err = s.vault.ready(ctx, j.Tenant) // else its answer could not be written
	}
	var away *tasks.BodiesError
	var sealed *tasks.SealError
	switch {
	case errors.As(err, &away):
		return tasks.Job{}, s.putOff(ctx, t, away)
	case errors.As(err, &sealed):
		return tasks.Job{}, s.putOffSealed(ctx, t, sealed)
	case err != nil:
		return tasks.Job{}, fmt.Errorf("take job %s: %w", t.ID, err)
	}
	return j, nil
}

// asks is what the record keeps of a call under way, for an end that nobody sees: the
// most that it may cost, -1 where that is not known, and who is asked, each behind a
// space; "": nothing.
func asks(c tasks.Asked) string {
	most := tasks.Money(-1)
	switch {
	case c.Account == "":
		return ""
	case c.Priced:
		most = c.AtMost
	}
	return fmt.Sprintf(" %d %s\n%s", int64(most), c.Account, c.Model)
}

// spent is what the ledger takes down of an ended call; nil: no call was made.
func spent(c *tasks.Attempt) []int64 {
	switch c.Outcome {
	case tasks.Cached, tasks.Shared, "":
		return nil
	case tasks.HandedBack, tasks.Spilled:
		if !c.MaybeBilled {
			return nil
		}
	}
	var u tasks.Usage
	var cost tasks.Cost
	if c.Usage != nil {
		u = *c.Usage
	}
	if c.Cost != nil {
		cost = *c.Cost
	}
	return []int64{1, u.InputTokens, u.OutputTokens, u.CacheReadInputTokens, u.CacheCreationInputTokens, int64(cost.Amount), int64(cost.Maybe)}
}

// Start records that a call is about to be made. The tickets are for jobs that
// there is room for now.
func (s *Store) Start(ctx context.Context, t tasks.Ticket) (tasks.Started, []tasks.Ticket, error) {
	a := args{
		"id": t.ID, "fence": t.Fence, "lease": Lease.Milliseconds(), "depth": s.depthOf(t.Pool), "alone": t.Alone, "by": rand.Text()[:12] + " " + waiting(t.Waited) + asks(t.Asks),
	}
	if t.Into != nil {
		a["lease"], a["bundle"] = t.Into.Lease.Milliseconds(), joining(t.Into)
	}
	reply, err := s.move(ctx, "start job "+t.ID, startScript, a)
	if err != nil {
		return tasks.Started{}, nil, err
	}
	return tasks.Started{
		Call: int(num(reply[0])), Attempts: int(num(reply[1])), At: fromMilli(num(reply[2])), Wanted: str(reply[3]) != "",
	}, tickets(reply[4]), nil
}

// recordWithin is how long the record of an end may take whose large result is put before.
const recordWithin = 10 * time.Second

// End records how a worker's attempt ended. A large result may take longer than the
// caller's ctx: cut off each time, it would never be recorded. ErrFinal and ErrLost mean that the
// job moved on without this worker, and nothing was changed. An answer that was
// Kept also ends a job that was given back since, as long as no other call began.
func (s *Store) End(ctx context.Context, t tasks.Ticket, e tasks.Ending) ([]tasks.Ticket, error) {
	pool := t.Pool
	if e.Detour != nil && e.Status == tasks.StatusRetrying {
		pool = e.Detour.Pool
	}
	large := e.Status == tasks.StatusSucceeded && s.large(len(e.Result))
	if large {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(pipeline.Leave(ctx)), bodies.Timeout(len(e.Result))+recordWithin)
		defer cancel()
	}
	tenant, err := s.whose(ctx, t, large)
	if err != nil {
		return nil, fmt.Errorf("end an attempt of job %s: %w", t.ID, err)
	}
	w, err := s.written(ctx, tenant, t, &e, large)
	if err != nil {
		return nil, err
	}
	next, err := s.end(ctx, t, &e, s.depthOf(pool), w)
	if tasks.Void(err) {
		s.unused(ctx, t.ID, w.lies)
	}
	return next, err
}

// whose is the tenant of a ticket's job, where it is needed, as for sealing. A ticket that a
// release before this one has kept does not say it.
func (s *Store) whose(ctx context.Context, t tasks.Ticket, needed bool) (string, error) {
	if t.Tenant != "" || !needed && !s.vault.seals {
		return t.Tenant, nil
	}
	return s.Holder(ctx, t.ID)
}

// written is what an ending writes of what is content.
type written struct {
	result  []byte
	lies    string // where the result lies; "": it is in the record
	kept    []byte // the copy for those that wait for the same answer; nil: the result itself
	outcome string
}

// written seals what an attempt has brought, and puts a large result where it will lie.
func (s *Store) written(ctx context.Context, tenant string, t tasks.Ticket, e *tasks.Ending, large bool) (w written, err error) {
	w.result, w.outcome = s.result(e.Result), s.shows(e)
	if large {
		if w.lies, err = s.unloadResult(ctx, tenant, t, e); err != nil {
			return w, err
		}
	}
	if !s.vault.seals {
		return w, nil
	}
	if e.Leads != "" && e.Status == tasks.StatusSucceeded {
		copied := w.result
		if large {
			copied = []byte(w.lies)
		}
		if w.kept, err = s.vault.seal(ctx, tenant, copied, ofAnswer, e.Leads); err != nil {
			return w, fmt.Errorf("seal the result of job %s: %w", t.ID, err)
		}
	}
	if !large {
		w.result, err = s.vault.seal(ctx, tenant, w.result, ofResult, t.ID)
	}
	if err == nil && e.Error != nil {
		var b []byte
		b, err = s.vault.seal(ctx, tenant, []byte(w.outcome), ofOutcome, t.ID)
		w.outcome = string(b)
	}
	if err != nil {
		return w, fmt.Errorf("seal the result of job %s: %w", t.ID, err)
	}
	return w, nil
}

// end is End of an attempt of which what is written is made.
func (s *Store) end(ctx context.Context, t tasks.Ticket, e *tasks.Ending, depth int, w written) ([]tasks.Ticket, error) {
	what := string(e.Status)
	if e.Status == tasks.StatusRetrying {
		what = "hand_back"
		if e.Counted {
			what = "retry"
		}
	}
	call := details{
		Outcome: e.Attempt.Outcome, Status: e.Attempt.Status, RequestID: e.Attempt.RequestID,
		Model: e.Attempt.Model, MaybeBilled: e.Attempt.MaybeBilled, Account: e.Attempt.Account, Batch: e.Attempt.Batch, Usage: (*usage)(e.Attempt.Usage),
	}
	if c := e.Attempt.Cost; c != nil {
		call.Cost = []tasks.Money{c.Amount, c.Maybe}
	}
	detour := tasks.Detour{}
	if e.Detour != nil && e.Status == tasks.StatusRetrying {
		detour = *e.Detour
	}
	field, result := placed(w.result, w.lies, "r", "rr")
	a := args{
		"id": t.ID, "fence": t.Fence, "what": what, "delay": e.Delay.Milliseconds(), "depth": depth, "field": field,
		"to": detour.Pool, "passed": detour.Passed, "left": detour.Left, "used": used(e), "kept": e.Kept, "pieces": s.pieces(e, w.lies), "ask": strings.TrimPrefix(asks(t.Asks), " "),
		"toll": s.cost(detour.Pool, detour.Input, detour.Output), "cost": took(e), "code": "",
	}
	if e.Error != nil {
		a["code"] = e.Error.Code
	}
	if sums := spent(&e.Attempt); sums != nil {
		a["spent"] = sums
	}
	log := encode(call)
	if e.Status == tasks.StatusSucceeded {
		if b, ok := call.brief(s.outcome(e)); ok {
			log, a["ended"] = encode(b), endsWithJob
		}
	}
	rows := []any{w.outcome, log, result}
	if w.kept != nil {
		rows = append(rows, w.kept)
	}
	reply, err := s.move(ctx, "end an attempt of job "+t.ID, endScript, a, rows...)
	if err != nil {
		return nil, err
	}
	s.discardText(str(reply[1]))
	return tickets(reply[0]), nil
}

// pieces is how many bytes of a result lie in Redis beside its record.
func (s *Store) pieces(e *tasks.Ending, lies string) int {
	if lies == "" || !s.bodies.InRedis() {
		return 0
	}
	return len(e.Result)
}

// shows is what the record of a job has to show after an attempt: all of a job
// that is final, the error alone of one that is tried again, if there is one.
func (s *Store) shows(e *tasks.Ending) string {
	switch {
	case e.Status.Final():
		return encode(s.outcome(e))
	case e.Error != nil:
		return encode(outcome{Error: e.Error, Provider: e.Provider})
	}
	return ""
}

// outcome is that of a job that is final, in few bytes where records need this release
// anyway: 0.1.0 reads nothing that is brief.
func (s *Store) outcome(e *tasks.Ending) outcome {
	o := outcome{Error: e.Error, Usage: (*usage)(e.Usage), Provider: e.Provider, Finish: e.Finish}
	if s.bodies == nil {
		return o
	}
	return o.brief()
}

// used is how many tokens an ended call took, as scripts count them. Where the
// provider's count never came, that is unknown, unless nothing can have been charged.
func used(e *tasks.Ending) int64 {
	switch {
	case e.Usage != nil:
		return e.Usage.Tokens()
	case e.Attempt.MaybeBilled, e.Attempt.Outcome == tasks.Succeeded:
		return -1
	}
	return 0
}

// took is what an ended call took of its pool's allowance, as scripts count it, in µs; -1:
// nobody knows.
func took(e *tasks.Ending) int64 {
	switch {
	case e.Draw > 0:
		return max(1, e.Draw.Microseconds())
	case e.Draw < 0:
		return 0
	}
	return -1
}

// Renew extends a worker's leases by Lease from now and returns the ids that
// it has lost, by cancellation or because it was silent for too long.
func (s *Store) Renew(ctx context.Context, held []tasks.Ticket) ([]string, error) {
	if len(held) == 0 {
		return nil, nil
	}
	s.vault.needs(held)
	rows := make([]any, 0, 2*len(held))
	for _, t := range held {
		rows = append(rows, t.ID, t.Fence)
	}
	lost, err := s.run(ctx, renewScript, args{"lease": Lease.Milliseconds()}, rows...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("renew %d leases: %w", len(held), err)
	}
	return lost, nil
}

// Cancel makes a tenant's job canceled at once, also a running one, whose
// worker is told to cut the call off. ErrFinal: it was final already.
func (s *Store) Cancel(ctx context.Context, tenant, id string) (j tasks.Job, err error) {
	err = operate(ctx, id, func(ctx context.Context, op string) error {
		words, err := s.run(ctx, cancelScript, args{"op": op, "tenant": tenant, "batch": ""}, id).StringSlice()
		if err != nil {
			return fmt.Errorf("cancel job %s: %w", id, err)
		}
		if err := moveError(words[0]); err != nil {
			return err
		}
		j, err = s.Job(ctx, tenant, id)
		return err
	})
	return j, err
}

// Requeue queues a failed, canceled or expired job again under its id, with
// its attempts counted anew and no deadline. It takes of its tenant's limits
// what a new job takes.
func (s *Store) Requeue(ctx context.Context, tenant, id string, l tasks.Limits) (j tasks.Job, next []tasks.Ticket, err error) {
	err = operate(ctx, id, func(ctx context.Context, op string) (err error) {
		j, next, err = s.requeue(ctx, op, tenant, id, l)
		return err
	})
	return j, next, err
}

func (s *Store) requeue(ctx context.Context, op, tenant, id string, l tasks.Limits) (tasks.Job, []tasks.Ticket, error) {
	j, err := s.Job(ctx, tenant, id)
	if err != nil {
		return tasks.Job{}, nil, err
	}
	words, next, err := s.requeueSome(ctx, op, tenant, []tasks.Job{j}, l, false)
	if err == nil {
		err = moveError(words[0])
	}
	if err != nil {
		return tasks.Job{}, nil, fmt.Errorf("requeue job %s: %w", id, err)
	}
	j, err = s.Job(ctx, tenant, id)
	return j, next, err
}

// requeueSome queues jobs again, up to the first that a limit refuses: the error is that
// refusal, and said is what became of those before it. pass has what no limit can ever
// hold passed over.
func (s *Store) requeueSome(ctx context.Context, op, tenant string, jobs []tasks.Job, l tasks.Limits, pass bool) (said []string, next []tasks.Ticket, err error) {
	rows := make([]any, 0, 6*len(jobs))
	for i := range jobs {
		j := &jobs[i]
		rows = append(rows, j.ID, s.depthOf(j.Pool), laneShift(j.Priority), l.Reserves(&j.Request), counted(j, l), s.costs(j))
	}
	a := args{
		"op": op, "tenant": tenant, "most": l.QueuedJobs, "daily": l.TokensPerDay, "budget": l.CostPerDay, "widest": l.QueuedBytes, "weight": s.weight(tasks.TenantOf(tenant)), "pass": pass,
	}
	if own, some := ownLimits(l); some {
		a["own"] = own
	}
	reply, err := s.run(ctx, requeueScript, a, rows...).Slice()
	if err != nil {
		return nil, nil, err
	}
	if refusal := list(reply[1]); len(refusal) > 0 {
		err = refused(l, refusal)
	}
	return words(reply[0]), tickets(reply[2]), err
}

// Delete forgets a finished job and every copy of what it asked and of its
// answer. What is still to be told of it is told without them, and its
// Idempotency-Key is free. ErrConflict: it is not finished.
func (s *Store) Delete(ctx context.Context, tenant, id string) error {
	return operate(ctx, id, func(ctx context.Context, op string) error {
		said, err := s.run(ctx, deleteScript, args{"op": op, "id": id, "tenant": tenant}).StringSlice()
		if err != nil {
			return fmt.Errorf("delete job %s: %w", id, err)
		}
		if err := moveError(said[0]); err != nil {
			return err
		}
		s.remove(ctx, said[1:])
		return nil
	})
}

// Sweep closes what crashes left open: it wakes jobs that are due, expires
// those past their deadline, gives back the jobs of dead workers, forgets what
// has outlived its time and hands out what there is room for. Any process may
// call it, about once a second.
func (s *Store) Sweep(ctx context.Context) (tasks.Swept, error) {
	if at := time.Now().Unix() / 60; s.contentsSwept.Swap(at) != at { // once a minute will do
		if err := s.sweepContents(ctx); err != nil {
			return tasks.Swept{}, err
		}
	}
	reply, err := s.run(ctx, sweepScript, args{"lease": Lease.Milliseconds(), "most": sweepMost, "alone": tasks.AloneFrom, "losses": tasks.MostLosses, "depths": s.depth, "shares": s.shares()}).Slice()
	if err != nil {
		return tasks.Swept{}, fmt.Errorf("sweep: %w", err)
	}
	s.discard(loose(words(reply[8])))
	return tasks.Swept{
		Hand: tickets(reply[0]), Look: tickets(reply[1]),
		NextDue: time.Duration(num(reply[2])) * time.Millisecond, Lost: int(num(reply[3])),
		Unfold: words(reply[4]), Stale: words(reply[5]), Expired: ended(reply[6]), LostTooOften: ended(reply[7]),
	}, nil
}

// shares are those of the pools' lanes that are not the usual ones.
func (s *Store) shares() map[string]string {
	shares := make(map[string]string, len(s.lanes))
	for pool, l := range s.lanes {
		shares[pool] = l.String()
	}
	return shares
}

// ended reads id, tenant, pool and attempts in turn.
func ended(v any) (jobs []tasks.Job) {
	for l := list(v); len(l) >= 4; l = l[4:] {
		jobs = append(jobs, tasks.Job{ID: str(l[0]), Tenant: str(l[1]), Pool: str(l[2]), Attempts: int(num(l[3]))})
	}
	return jobs
}

// Leave says that the worker of these jobs stops: a call that is lost with it from
// now on is not held against its job.
func (s *Store) Leave(ctx context.Context, held []tasks.Ticket) error {
	rows := make([]any, 0, 2*len(held))
	for _, t := range held {
		rows = append(rows, t.ID, t.Fence)
	}
	if err := s.run(ctx, leaveScript, args{"mark": 1}, rows...).Err(); err != nil {
		return fmt.Errorf("leave %d jobs: %w", len(held), err)
	}
	return nil
}

// SetPaused stops or allows the handing out of a pool's jobs. What is already
// handed out stays where it is.
func (s *Store) SetPaused(ctx context.Context, pool string, paused bool) error {
	if err := s.run(ctx, pausedScript, args{"pool": pool, "paused": flag(paused)}).Err(); err != nil {
		return fmt.Errorf("pause the backlog of %s: %w", pool, err)
	}
	return nil
}

// Reissue hands a ticket's job out anew, because Asynq no longer has the old
// one or will not run it soon. It reports false when the job has moved on.
func (s *Store) Reissue(ctx context.Context, t tasks.Ticket) (tasks.Ticket, bool, error) {
	fence, err := s.run(ctx, reissueScript, args{"id": t.ID, "fence": t.Fence}).Int64()
	if err != nil {
		return t, false, fmt.Errorf("reissue job %s: %w", t.ID, err)
	}
	t.Fence = fence
	return t, fence > 0, nil
}
