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
)

// PutDocument keeps a document, in place of the one of the same id, and its content as
// long as it.
func (s *Store) PutDocument(ctx context.Context, d tasks.Document) error {
	body, err := s.vault.seal(ctx, d.Tenant, d.Body, ofDocument, d.ID)
	if err != nil {
		return fmt.Errorf("keep document %s: %w", d.ID, err)
	}
	reply, err := s.run(ctx, documentPutScript, args{
		"id": d.ID, "tenant": d.Tenant, "kind": string(d.Kind), "keep": d.Expires.Milliseconds(), "list": documentsKept.Milliseconds(),
	}, body).StringSlice()
	if err == nil {
		err = moveError(reply[0])
	}
	if err != nil {
		return fmt.Errorf("keep document %s: %w", d.ID, err)
	}
	return nil
}

// documentsKept is how long the list of a tenant's documents outlives the last that was
// put; none is kept longer.
const documentsKept = 40 * 24 * time.Hour

// Document returns a tenant's document; else tasks.ErrNotFound.
func (s *Store) Document(ctx context.Context, tenant, id string) (tasks.Document, error) {
	h, err := s.rdb.HGetAll(ctx, s.keys.document(id)).Result()
	if err != nil {
		return tasks.Document{}, fmt.Errorf("read document %s: %w", id, redisError(err))
	}
	if !owns(tenant, h) {
		return tasks.Document{}, tasks.ErrNotFound
	}
	return s.unpackDocument(ctx, id, h)
}

func (s *Store) unpackDocument(ctx context.Context, id string, h map[string]string) (tasks.Document, error) {
	d := tasks.Document{ID: id, Tenant: h["t"], User: h["us"], Kind: tasks.DocumentKind(h["k"])}
	var err error
	if d.Body, err = s.vault.open(ctx, d.Tenant, []byte(h["d"]), ofDocument, id); err != nil {
		return tasks.Document{}, fmt.Errorf("read document %s: %w", id, err)
	}
	return d, nil
}

// Documents returns the documents that a filter selects, and whether there are more.
func (s *Store) Documents(ctx context.Context, f tasks.DocumentFilter) (out []tasks.Document, more bool, err error) {
	index, after := s.keys.documents(string(f.Kind), tasks.TenantOf(f.Tenant)), f.After
	for {
		ids, err := s.rdb.ZRangeArgs(ctx, documentsBehind(index, after, f)).Result()
		if err != nil {
			return nil, false, fmt.Errorf("list documents: %w", redisError(err))
		}
		records, err := s.ask(ctx, s.keys.document, ids)
		if err != nil {
			return nil, false, fmt.Errorf("read %d documents: %w", len(ids), err)
		}
		for i, h := range records {
			switch {
			case h["t"] == "": // it has ended its time
				if err := s.rdb.ZRem(ctx, index, ids[i]).Err(); err != nil {
					return nil, false, fmt.Errorf("list documents: %w", redisError(err))
				}
			case !owns(f.Tenant, h):
			case len(out) == f.Limit:
				return out, true, nil
			default:
				d, err := s.unpackDocument(ctx, ids[i], h)
				if err != nil {
					return nil, false, err
				}
				out = append(out, d)
			}
		}
		if len(ids) <= f.Limit {
			return out, false, nil
		}
		after = ids[len(ids)-1]
	}
}

// documentsBehind is the range of an index of documents that a page is read from: one
// more than it has.
func documentsBehind(index, after string, f tasks.DocumentFilter) redis.ZRangeArgs {
	r := redis.ZRangeArgs{Key: index, Start: "+", Stop: "-", ByLex: true, Rev: !f.Oldest, Count: int64(f.Limit + 1)}
	if f.Oldest {
		r.Start, r.Stop = "-", "+"
	}
	if after != "" {
		r.Start = "(" + after
	}
	return r
}

// ClaimDocument keeps a document unless there is one of its id, and returns that one's body.
func (s *Store) ClaimDocument(ctx context.Context, d tasks.Document) (prior []byte, err error) {
	body, err := s.vault.seal(ctx, d.Tenant, d.Body, ofDocument, d.ID)
	if err != nil {
		return nil, fmt.Errorf("claim document %s: %w", d.ID, err)
	}
	reply, err := s.run(ctx, documentClaimScript, args{
		"id": d.ID, "tenant": d.Tenant, "kind": string(d.Kind), "keep": d.Expires.Milliseconds(), "list": documentsKept.Milliseconds(),
	}, body).StringSlice()
	if err == nil && reply[0] != "there" {
		return nil, moveError(reply[0])
	}
	if err != nil {
		return nil, fmt.Errorf("claim document %s: %w", d.ID, err)
	}
	return s.vault.open(ctx, d.Tenant, []byte(reply[1]), ofDocument, d.ID)
}

// DropDocument forgets a document and then its content, which goes with a sweep where
// this is cut off between the two: nobody finds a document without it.
func (s *Store) DropDocument(ctx context.Context, d tasks.Document) error {
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, s.keys.document(d.ID))
		p.ZRem(ctx, s.keys.documents(string(d.Kind), tasks.TenantOf(d.Tenant)), d.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget document %s: %w", d.ID, redisError(err))
	}
	return s.dropContents(ctx, 0, d.ID)
}

var (
	contentAddScript    = script("content_add")
	contentDropScript   = script("content_drop")
	documentClaimScript = script("document_claim")
	documentPutScript   = script("document_put")
)

// AddContent adds a chunk to the content of a document that is to come, in the store of
// bodies where there is one. Without its document the content goes after
// [tasks.ContentKept]. Its bytes count to the tenant: past what it may have it is a
// *tasks.QuotaError.
func (s *Store) AddContent(ctx context.Context, tenant, id string, chunk []byte, l tasks.Limits) error {
	tenant = tasks.TenantOf(tenant)
	place, err := s.nextPlace(ctx, id)
	if err != nil {
		return fmt.Errorf("keep a part of document %s: %w", id, err)
	}
	sealed, err := s.vault.seal(ctx, tenant, chunk, ofContent, id, place)
	if err != nil {
		return fmt.Errorf("keep a part of document %s: %w", id, err)
	}
	element, lies := any(sealed), ""
	if s.bodies != nil {
		ref, err := s.put(ctx, tenant, ownerOf(id), bodies.File, "", chunk, place)
		if err != nil {
			return fmt.Errorf("put a part of document %s: %w", id, err)
		}
		lies = ref.String()
		element = lies
	}
	reply, err := s.run(ctx, contentAddScript, args{
		"id": id, "tenant": tenant, "op": rand.Text()[:16], "bytes": len(chunk), "widest": l.QueuedBytes, "lies": lies != "", "keep": tasks.ContentKept.Milliseconds(),
	}, element).Slice()
	if err == nil {
		if err = refused(l, reply); err != nil {
			s.discardText(lies)
		}
	}
	if err != nil {
		return fmt.Errorf("keep a part of document %s: %w", id, err)
	}
	return nil
}

// nextPlace is where a chunk will lie in a content, to which one caller adds them in turn. It is
// bound in where the store seals, so that no chunk opens in another's place.
func (s *Store) nextPlace(ctx context.Context, id string) (string, error) {
	if !s.vault.seals {
		return "", nil
	}
	n, err := s.rdb.LLen(ctx, s.keys.content(id)).Result()
	return fmt.Sprint(n), redisError(err)
}

// ownerOf is a document as the store of bodies knows it.
func ownerOf(id string) string { return strings.Replace(id, "-", "_", 1) }

// contentsMost is how many contents are given up at once when their time is over.
const contentsMost = 100

// sweepContents gives up the contents whose time is over.
func (s *Store) sweepContents(ctx context.Context) error { return s.dropContents(ctx, contentsMost) }

func (s *Store) dropContents(ctx context.Context, most int, ids ...string) error {
	reply, err := s.run(ctx, contentDropScript, args{"most": most}, anys(ids)...).Slice()
	if err != nil {
		return fmt.Errorf("forget contents: %w", err)
	}
	s.discard(loose(words(reply)))
	return nil
}

// Content returns one chunk of a document's content, the first being 0; nil after the last.
func (s *Store) Content(ctx context.Context, id string, chunk int) ([]byte, error) {
	var there *redis.StringCmd
	var stock *redis.SliceCmd
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		there, stock = p.LIndex(ctx, s.keys.content(id), int64(chunk)), p.HMGet(ctx, s.keys.stock(id), "r", "t")
		return nil
	})
	switch {
	case errors.Is(there.Err(), redis.Nil):
		return nil, nil
	case err != nil && !errors.Is(err, redis.Nil):
		return nil, fmt.Errorf("read a part of document %s: %w", id, redisError(err))
	}
	var b []byte
	held := words(stock.Val())
	if lies, tenant := held[0] != "", held[1]; lies {
		b, err = s.fetch(ctx, tenant, ownerOf(id), bodies.File, there.Val(), 0, fmt.Sprint(chunk))
	} else {
		b, err = s.vault.open(ctx, tenant, []byte(there.Val()), ofContent, id, fmt.Sprint(chunk))
	}
	if err != nil {
		return nil, fmt.Errorf("read a part of document %s: %w", id, err)
	}
	return b, nil
}
