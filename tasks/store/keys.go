package store

import (
	"cmp"

	"github.com/sluicehq/sluice/tasks"
)

// keys names what Go reads and writes of the record by itself. lua/keys.lua names
// all of it, and says what is where; a test compares the two.
type keys string

// newKeys returns the keys of a prefix; "" means [tasks.DefaultPrefix].
func newKeys(prefix string) keys { return keys(cmp.Or(prefix, tasks.DefaultPrefix) + ":{s}:") }

func (k keys) session(name string) string           { return string(k) + "ses:" + name }
func (k keys) job(id string) string                 { return string(k) + "j:" + id }
func (k keys) indexed() string                      { return string(k) + "mdsince" }
func (k keys) text(id string) string                { return string(k) + "text:" + id }
func (k keys) events(id string) string              { return string(k) + "ev:" + id }
func (k keys) wanted(id string) string              { return string(k) + "want:" + id }
func (k keys) answer(digest string) string          { return string(k) + "a:" + digest }
func (k keys) backlog(pool, tenant string) string   { return string(k) + "q:" + pool + ":" + tenant }
func (k keys) turns(pool, lane string) string       { return string(k) + "turns:" + lane + ":" + pool }
func (k keys) order(pool string) string             { return string(k) + "order:" + pool }
func (k keys) ring(pool string) string              { return string(k) + "ring:" + pool }
func (k keys) turn(pool string) string              { return string(k) + "turn:" + pool }
func (k keys) paid(pool string) string              { return string(k) + "paid:" + pool }
func (k keys) weights() string                      { return string(k) + "weight" }
func (k keys) settings() string                     { return string(k) + "tset" }
func (k keys) atLimit() string                      { return string(k) + "fulls" }
func (k keys) reviews(tenant string) string         { return string(k) + "rvw:" + tenant }
func (k keys) leaving() string                      { return string(k) + "bye" }
func (k keys) departure(tenant string) string       { return string(k) + "byes:" + tenant }
func (k keys) conduct(tenant string) string         { return string(k) + "ab:" + tenant }
func (k keys) conducts() string                     { return string(k) + "abs" }
func (k keys) handed(pool string) string            { return string(k) + "out:" + pool }
func (k keys) held(pool string) string              { return string(k) + "hold:" + pool }
func (k keys) running(pool string) string           { return string(k) + "run:" + pool }
func (k keys) fallbacks(pool string) string         { return string(k) + "fall:" + pool }
func (k keys) foretold(pool string) string          { return string(k) + "fts:" + pool }
func (k keys) load(pool string) string              { return string(k) + "n:" + pool }
func (k keys) mishaps(pool string) string           { return string(k) + "mis:" + pool }
func (k keys) waiting() string                      { return string(k) + "tq" }
func (k keys) due() string                          { return string(k) + "due" }
func (k keys) watched(pool string) string           { return string(k) + "eye:" + pool }
func (k keys) processes() string                    { return string(k) + "procs" }
func (k keys) past(pool string) string              { return string(k) + "past:" + pool }
func (k keys) batch(id string) string               { return string(k) + "g:" + id }
func (k keys) batches(tenant string) string         { return string(k) + "gs:" + tenant }
func (k keys) staged(tenant string) string          { return string(k) + "gst:" + tenant }
func (k keys) lines(batch string) string            { return string(k) + "gl:" + batch }
func (k keys) bundle(id string) string              { return string(k) + "nb:" + id }
func (k keys) note(id string) string                { return string(k) + "note:" + id }
func (k keys) control() string                      { return string(k) + "control" }
func (k keys) delivery(id string) string            { return string(k) + "d:" + id }
func (k keys) deliveries(tenant string) string      { return string(k) + "wt:" + tenant }
func (k keys) sent(endpoint string) string          { return string(k) + "we:" + endpoint }
func (k keys) endpoint(id string) string            { return string(k) + "wh:" + id }
func (k keys) endpoints(tenant string) string       { return string(k) + "whs:" + tenant }
func (k keys) failing() string                      { return string(k) + "wbad" }
func (k keys) disabledHooks() string                { return string(k) + "whd" }
func (k keys) secrets(tenant string) string         { return string(k) + "wsec:" + tenant }
func (k keys) bodiesSwept() string                  { return string(k) + "bodies" }
func (k keys) pieces(body string) string            { return string(k) + "body:" + body }
func (k keys) inPieces() string                     { return string(k) + "pieces" }
func (k keys) poolStates() string                   { return string(k) + "wpool" }
func (k keys) token(id string) string               { return string(k) + "tok:" + id }
func (k keys) tokens() string                       { return string(k) + "toks" }
func (k keys) revision() string                     { return string(k) + "revno" }
func (k keys) acts() string                         { return string(k) + "acts" }
func (k keys) ledger(day, tenant string) string     { return string(k) + "led:" + day + ":" + tenant }
func (k keys) userLedger(day, tenant string) string { return string(k) + "ledu:" + day + ":" + tenant }
func (k keys) ledgers() string                      { return string(k) + "leds" }

func (k keys) document(id string) string            { return string(k) + "doc:" + id }
func (k keys) content(id string) string             { return string(k) + "part:" + id }
func (k keys) stock(id string) string               { return string(k) + "stock:" + id }
func (k keys) contents() string                     { return string(k) + "parts" }
func (k keys) claims(tenant string) string          { return string(k) + "docc:" + tenant }
func (k keys) documents(kind, tenant string) string { return string(k) + "docs:" + kind + ":" + tenant }

func (k keys) sealKey(tenant string) string { return string(k) + "sk:" + tenant }
func (k keys) sealKeys() string             { return string(k) + "sks" }
func (k keys) sealKnown() string            { return string(k) + "skm" }
