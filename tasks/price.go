package tasks

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Currency is what all amounts are told in.
const Currency = "USD"

// Money is an amount in billionths of a unit of [Currency]. It is whole, so that sums
// come out the same in every order.
type Money int64

// Unit is one unit of the currency.
const Unit Money = 1e9

// mostMoney is the largest amount that ParseMoney reads, in units.
const mostMoney = 1_000_000_000

// ParseMoney reads a decimal, as in 3 or 0.075: digits, and at most nine behind a point.
func ParseMoney(s string) (Money, error) {
	whole, part, _ := strings.Cut(s, ".")
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	if whole == "" || !digits(whole) || !digits(part) || strings.HasSuffix(s, ".") {
		return 0, fmt.Errorf("%q is no amount; write it as in 3 or 0.075", s)
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > mostMoney {
		return 0, fmt.Errorf("%s is above %d", s, mostMoney)
	}
	if len(part) > 9 {
		return 0, fmt.Errorf("%s has more than nine digits behind its point", s)
	}
	rest, _ := strconv.ParseInt((part + "000000000")[:9], 10, 64)
	return Money(n)*Unit + Money(rest), nil
}

// String is the amount as a decimal without zeros at its end. It is a number of JSON.
func (m Money) String() string {
	sign := ""
	if m < 0 {
		sign, m = "-", -m
	}
	s := strconv.FormatInt(int64(m/Unit), 10)
	if rest := m % Unit; rest != 0 {
		s += "." + strings.TrimRight(fmt.Sprintf("%09d", int64(rest)), "0")
	}
	return sign + s
}

// Cost is what calls cost: Amount for certain, and what they may have cost besides,
// where the provider may have charged and nobody saw what.
type Cost struct {
	Amount Money
	Maybe  Money
}

// Plus is the sum of two costs.
func (c Cost) Plus(other Cost) Cost { return Cost{c.Amount + other.Amount, c.Maybe + other.Maybe} }

// Price is what a million tokens of some models cost.
type Price struct {
	Models                               string    // a glob, see [MatchModel]
	From, Until                          time.Time // it holds for calls that begin from From on and before Until; zero: no bound
	Input, Output, CacheRead, CacheWrite Money
	CacheWrite1h                         Money // of those written to the cache for an hour; 0: CacheWrite
	// The factors of the service tiers: Unit is the price itself, half of it half of that.
	// 0: the price itself.
	Batch, Flex, Priority Money
}

// Served is how a provider served a call, as its answer says, where its price goes by it.
type Served struct {
	Tier Tier
	Hour int64 // of the tokens written to its cache, those kept for an hour
}

// Tier is the service tier that an answer says it was served at, in the provider's word.
type Tier string

// The tiers that have a factor; every other costs the price itself.
const (
	TierBatch    Tier = "batch"
	TierFlex     Tier = "flex"
	TierPriority Tier = "priority"
)

// factor is by what the prices of a tier are multiplied.
func (p *Price) factor(t Tier) Money {
	return cmp.Or(map[Tier]Money{TierBatch: p.Batch, TierFlex: p.Flex, TierPriority: p.Priority}[t], Unit)
}

// Prices are what models cost; the first that matches a model and holds is its price.
type Prices []Price

// Of returns a model's price of calls that begin at a time; false where nobody has said.
func (ps Prices) Of(model string, at time.Time) (Price, bool) {
	for _, p := range ps {
		if !at.Before(p.From) && (p.Until.IsZero() || at.Before(p.Until)) && MatchModel([]string{p.Models}, model) {
			return p, true
		}
	}
	return Price{}, false
}

// Of is what these tokens cost, served so, rounded once to the nearest billionth.
func (p Price) Of(u Usage, s Served) Money {
	hour := min(max(0, s.Hour), max(0, u.CacheCreationInputTokens))
	sum := new(big.Int)
	for _, part := range [...]struct {
		tokens int64
		price  Money
	}{
		{u.InputTokens, p.Input}, {u.OutputTokens, p.Output}, {u.CacheReadInputTokens, p.CacheRead},
		{u.CacheCreationInputTokens - hour, p.CacheWrite}, {hour, cmp.Or(p.CacheWrite1h, p.CacheWrite)},
	} {
		n := big.NewInt(max(0, part.tokens))
		sum.Add(sum, n.Mul(n, big.NewInt(int64(part.price))))
	}
	million := big.NewInt(1_000_000 * int64(Unit))
	sum.Mul(sum, big.NewInt(int64(p.factor(s.Tier))))
	sum.Add(sum, new(big.Int).Rsh(million, 1))
	if sum.Quo(sum, million); !sum.IsInt64() {
		return math.MaxInt64
	}
	return Money(sum.Int64())
}

// AtMost is about the most that one call may cost: its input is estimated and may be
// written to the provider's cache, and its output is as long as it may be. A request that
// names a service tier may be served at the dearest, or at none.
func (p Price) AtMost(r *Request) Money {
	p.Input = max(p.Input, p.CacheWrite, p.CacheWrite1h)
	var s Served
	if bytes.Contains(r.Body, []byte(`service_tier`)) {
		for _, t := range []Tier{TierBatch, TierFlex, TierPriority} {
			if p.factor(t) > p.factor(s.Tier) {
				s.Tier = t
			}
		}
	}
	return p.Of(Usage{InputTokens: int64(r.InputTokens), OutputTokens: int64(cmp.Or(r.OutputTokens, r.MaxTokens))}, s)
}

// Cost is what the job's calls cost, as far as its log goes back; false where no call
// has ended whose model has a price.
func (j *Job) Cost() (sum Cost, ok bool) {
	for i := range j.Log {
		if c := j.Log[i].Cost; c != nil {
			sum, ok = sum.Plus(*c), true
		}
	}
	return sum, ok
}
