package kill

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/tasks"
)

// price is what the proof's model costs. The provider's bill is made of its own count of
// the tokens that it charged, and of nothing that Sluice says.
var price = tasks.Price{Models: rig.Model, Input: 3 * tasks.Unit, Output: 15 * tasks.Unit}

// priced is the price as configuration.
func priced() string {
	return fmt.Sprintf("prices: {%q: {input: %s, output: %s}}", price.Models, price.Input, price.Output)
}

// within is how far the bill and the receipts may lie apart where nothing is killed: a
// part in a thousand.
const within = 1000

// readLedger reads what the ledger says that all calls cost.
func (e *evidence) readLedger(ctx context.Context, c *rig.Client) error {
	text, err := expect(ctx, c, http.StatusOK, http.MethodGet, "/v1/usage?group=account", "", nil)
	if err != nil {
		return err
	}
	var said struct {
		Data []struct{ Cost rig.Cost }
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("the ledger: %w", err)
	}
	sum := tasks.Cost{}
	for _, line := range said.Data {
		cost, err := line.Cost.Money()
		if err != nil {
			return fmt.Errorf("the ledger: %w", err)
		}
		sum = sum.Plus(cost)
	}
	e.ledger = &sum
	return nil
}

// judgeLedger holds the receipts, which are the costs of the jobs' calls, and the ledger
// against the provider's bill.
func (e *evidence) judgeLedger(r *report) {
	if e.ledger == nil {
		return
	}
	var bill tasks.Money
	for _, c := range e.calls {
		if c.Accepted {
			bill += price.Of(tasks.Usage{InputTokens: c.InputTokens, OutputTokens: c.OutputTokens}, tasks.Served{})
		}
	}
	var sum tasks.Cost
	for _, j := range e.jobs {
		for _, a := range j.last.Upstream.Attempts {
			cost, err := a.Cost.Money()
			if err != nil {
				r.breach("receipt", "job %s: %v", j.id, err)
			}
			sum = sum.Plus(cost)
		}
	}
	r.row(sum.Amount <= bill && bill <= sum.Amount+sum.Maybe, "the provider's bill, by its own count, USD",
		fmt.Sprintf("%s to %s", cents(sum.Amount), cents(sum.Amount+sum.Maybe)), "%s", cents(bill))
	r.row(*e.ledger == sum, "the ledger, and perhaps besides, USD", "the receipts", "%s, %s", cents(e.ledger.Amount), cents(e.ledger.Maybe))
	if len(e.kills) == 0 {
		apart := max(sum.Amount+sum.Maybe-bill, bill-sum.Amount-sum.Maybe)
		r.row(apart*within <= bill, "of it, bill and receipts apart, nothing being killed", "<= 0.1 %", "%.3f %%", 100*float64(apart)/float64(max(1, bill)))
	}
}

// cents is an amount to a hundred-thousandth of a unit.
func cents(m tasks.Money) string { return fmt.Sprintf("%.5f", float64(m)/float64(tasks.Unit)) }
