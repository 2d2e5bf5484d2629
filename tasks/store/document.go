package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
)

// PutDocument keeps a document, in place of the one of the same id, and its content as
// long as it.
func (s *Store) PutDocument(ctx context.Context, d tasks.Document) error {
	index := s.keys.documents(string(d.Kind), d.Tenant)
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, s.keys.document(d.ID), "t", d.Tenant, "k", string(d.Kind), "d", d.Body)
		p.PExpire(ctx, s.keys.document(d.ID), d.Expires)
		p.PExpire(ctx, s.keys.content(d.ID), d.Expires)
		p.ZAdd(ctx, index, redis.Z{Member: d.ID})
		p.PExpire(ctx, index, documentsKept)
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep document %s: %w", d.ID, redisError(err))
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
	if h["t"] != tenant {
		return tasks.Document{}, tasks.ErrNotFound
	}
	return tasks.Document{ID: id, Tenant: tenant, Kind: tasks.DocumentKind(h["k"]), Body: []byte(h["d"])}, nil
}

// Documents returns a tenant's documents of a kind, newest first, at most limit of them
// after one, and whether there are more.
func (s *Store) Documents(ctx context.Context, tenant string, kind tasks.DocumentKind, after string, limit int) (out []tasks.Document, more bool, err error) {
	from, index := "+", s.keys.documents(string(kind), tenant)
	if after != "" {
		from = "(" + after
	}
	for {
		ids, err := s.rdb.ZRevRangeByLex(ctx, index, &redis.ZRangeBy{Min: "-", Max: from, Count: int64(limit + 1)}).Result()
		if err != nil {
			return nil, false, fmt.Errorf("list documents: %w", redisError(err))
		}
		records, err := s.ask(ctx, s.keys.document, ids)
		if err != nil {
			return nil, false, fmt.Errorf("read %d documents: %w", len(ids), err)
		}
		for i, h := range records {
			switch {
			case h["t"] != tenant: // it has ended its time
				if err := s.rdb.ZRem(ctx, index, ids[i]).Err(); err != nil {
					return nil, false, fmt.Errorf("list documents: %w", redisError(err))
				}
			case len(out) == limit:
				return out, true, nil
			default:
				out = append(out, tasks.Document{ID: ids[i], Tenant: tenant, Kind: kind, Body: []byte(h["d"])})
			}
		}
		if len(ids) <= limit {
			return out, false, nil
		}
		from = "(" + ids[len(ids)-1]
	}
}

// DropDocument forgets a document and its content.
func (s *Store) DropDocument(ctx context.Context, d tasks.Document) error {
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, s.keys.document(d.ID))
		p.Del(ctx, s.keys.content(d.ID))
		p.ZRem(ctx, s.keys.documents(string(d.Kind), d.Tenant), d.ID)
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget document %s: %w", d.ID, redisError(err))
	}
	return nil
}

// AddContent adds a chunk to the content of a document that is to come. Without that it
// goes after [tasks.ContentKept].
func (s *Store) AddContent(ctx context.Context, id string, chunk []byte) error {
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.RPush(ctx, s.keys.content(id), chunk)
		p.PExpire(ctx, s.keys.content(id), tasks.ContentKept)
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep a part of document %s: %w", id, redisError(err))
	}
	return nil
}

// Content returns one chunk of a document's content, the first being 0; nil after the last.
func (s *Store) Content(ctx context.Context, id string, chunk int) ([]byte, error) {
	b, err := s.rdb.LIndex(ctx, s.keys.content(id), int64(chunk)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a part of document %s: %w", id, redisError(err))
	}
	return b, nil
}
