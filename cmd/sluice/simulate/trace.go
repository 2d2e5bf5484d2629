package simulate

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Arrival is one call of a trace.
type Arrival struct {
	At            time.Duration // since the first
	Tenant        string
	Input, Output int64 // tokens
	Line          int   // of the trace; 0: it was made of a summary
}

// form is a kind of traces: which columns say what. A time is in seconds, but for ms and stamp.
type form struct {
	at, input, output, tenant string
	ms, stamp                 bool
}

// forms are the traces that are read, by the columns that they have: our own, those of
// Azure's public data set, and Mooncake's.
var forms = []form{
	{at: "arrival_s", input: "input_tokens", output: "output_tokens", tenant: "tenant"},
	{at: "arrival_ms", input: "input_tokens", output: "output_tokens", ms: true},
	{at: "TIMESTAMP", input: "ContextTokens", output: "GeneratedTokens", stamp: true},
}

// Reading says how a trace is read.
type Reading struct {
	// Tenants shares out the calls of a trace that names none: the first has twice the calls of the
	// second, three times those of the third, and so on. 0 means 8.
	Tenants int
	// Span is how much time is made of a summary, which has no calls of its own. 0 means 10 minutes.
	Span time.Duration
	Seed uint64
}

// Read reads a trace: CSV with a line of names. Its calls come in the order of their times.
func Read(r io.Reader, how Reading) ([]Arrival, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	head, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("read the names of its columns: %w", err)
	}
	at := map[string]int{}
	for i, name := range head {
		at[name] = i
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { _, ok := at[name]; return !ok })
	}
	random := rand.New(rand.NewPCG(how.Seed, 1))
	var all []Arrival
	switch i := slices.IndexFunc(forms, func(f form) bool { return has(f.at, f.input, f.output) }); {
	case i >= 0:
		all, err = forms[i].read(rows, at, share(random, cmp.Or(how.Tenants, 8)))
	case has("client_id", "requests_per_s", "gap_cv", "in_mean", "in_p50", "out_mean", "out_p50"):
		all, err = summary(rows, at, random, cmp.Or(how.Span, 10*time.Minute))
	default:
		return nil, errors.New("its columns are not those of a trace: want arrival_s,tenant,input_tokens,output_tokens")
	}
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("it has no calls")
	}
	slices.SortStableFunc(all, func(a, b Arrival) int { return cmp.Compare(a.At, b.At) })
	first := all[0].At
	for i := range all {
		all[i].At -= first
	}
	return all, nil
}

// share returns the tenants of calls that name none.
func share(random *rand.Rand, n int) func() string {
	sum := 0.0
	for i := range n {
		sum += 1 / float64(i+1)
	}
	return func() string {
		left := random.Float64() * sum
		for i := range n {
			if left -= 1 / float64(i+1); left < 0 {
				return "tenant-" + strconv.Itoa(i+1)
			}
		}
		return "tenant-1"
	}
}

func (f form) read(rows *csv.Reader, at map[string]int, tenant func() string) (all []Arrival, err error) {
	named, own := at[f.tenant]
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := rows.FieldPos(0)
		a := Arrival{Line: line}
		if a.At, err = f.time(row[at[f.at]]); err != nil {
			return nil, fmt.Errorf("line %d: %s %q is no time", line, f.at, row[at[f.at]])
		}
		for name, into := range map[string]*int64{f.input: &a.Input, f.output: &a.Output} {
			if *into, err = strconv.ParseInt(row[at[name]], 10, 64); err != nil || *into < 0 {
				return nil, fmt.Errorf("line %d: %s %q is no number of tokens", line, name, row[at[name]])
			}
		}
		if f.tenant != "" && own {
			a.Tenant = row[named]
		}
		if a.Tenant == "" {
			a.Tenant = tenant()
		}
		all = append(all, a)
	}
}

func (f form) time(text string) (time.Duration, error) {
	if f.stamp {
		t, err := time.Parse("2006-01-02 15:04:05.999999999", text)
		return time.Duration(t.UnixNano()), err
	}
	v, err := strconv.ParseFloat(text, 64)
	if f.ms {
		v /= 1000
	}
	if math.IsNaN(v) || math.Abs(v) > 1e9 {
		return 0, strconv.ErrRange
	}
	return time.Duration(v * float64(time.Second)), err
}

// summary makes calls of ServeGen's rows, which describe a client each: gaps of a Gamma
// distribution, sizes of a lognormal one.
func summary(rows *csv.Reader, at map[string]int, random *rand.Rand, span time.Duration) (all []Arrival, err error) {
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		v := map[string]float64{}
		for _, name := range []string{"requests_per_s", "gap_cv", "in_mean", "in_p50", "out_mean", "out_p50"} {
			if v[name], err = strconv.ParseFloat(row[at[name]], 64); err != nil || !(v[name] >= 0 && v[name] < 1e9) {
				line, _ := rows.FieldPos(0)
				return nil, fmt.Errorf("line %d: %s %q is no number", line, name, row[at[name]])
			}
		}
		if v["requests_per_s"] == 0 {
			continue
		}
		size := func(mean, median float64) int64 {
			sigma := math.Sqrt(2 * math.Log(max(1, mean/max(1, median))))
			return int64(max(1, median*math.Exp(sigma*random.NormFloat64())))
		}
		shape := 1 / max(0.01, v["gap_cv"]*v["gap_cv"])
		for t := 0.0; ; {
			if t += gamma(random, shape) / shape / v["requests_per_s"]; t > span.Seconds() {
				break
			}
			all = append(all, Arrival{
				At: time.Duration(t * float64(time.Second)), Tenant: "client-" + row[at["client_id"]],
				Input: size(v["in_mean"], v["in_p50"]), Output: size(v["out_mean"], v["out_p50"]),
			})
		}
	}
}

// gamma draws from a Gamma distribution of scale 1 (Marsaglia and Tsang, 2000).
func gamma(random *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(random, shape+1) * math.Pow(random.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	for {
		x := random.NormFloat64()
		v := math.Pow(1+x/math.Sqrt(9*d), 3)
		if v > 0 && math.Log(1-random.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}
