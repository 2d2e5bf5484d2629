package store

import (
	"context"
	"fmt"

	"github.com/sluicehq/sluice/tasks"
)

var joinScript = move("join")

// Join has a job that its worker holds share the call of one that asks the
// same, by digest, in the same pool. When there is none it leads, and is to be
// asked upstream. Else it follows, and the ticket is void: it comes back under a
// new one, with Job.Followed set, as soon as the leader has an answer, which is
// then kept under the digest for a while, or when it is its turn to lead because
// the leader ended without one or went to another pool. A leader that is tried
// again, or whose worker is lost, still leads. The tickets are for jobs that
// there is room for now. ErrFinal, ErrLost and ErrNotFound mean that the ticket
// was void before.
func (s *Store) Join(ctx context.Context, t tasks.Ticket, digest string) (leads bool, next []tasks.Ticket, err error) {
	reply, err := s.run(ctx, joinScript, t.ID, t.Fence, digest, s.depthOf(t.Pool), s.ttl.Milliseconds()).Slice()
	if err != nil {
		return false, nil, fmt.Errorf("join job %s: %w", t.ID, err)
	}
	switch word := str(reply[0]); word {
	case "lead":
		return true, nil, nil
	case "follow":
		return false, tickets(reply[1]), nil
	default:
		return false, nil, moveError(word)
	}
}
