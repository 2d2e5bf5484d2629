package bodies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// bucket is a backend of objects of S3, at Amazon or at whoever speaks it.
type bucket struct {
	c            *minio.Core
	name, prefix string // the prefix ends in a slash unless it is empty
	way          *http.Transport
}

// tries is how often one call is made at most, with pauses between: nobody else tries
// it again by itself.
const tries = 3

// checkBucket says why a URL names no bucket.
func checkBucket(u *url.URL) error {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("has parameters that cannot be read")
	}
	for key, values := range q {
		if key != "endpoint" && key != "region" || len(values) != 1 || values[0] == "" {
			return errors.New("may have the parameters endpoint and region, once each")
		}
	}
	if len(u.Host) < 3 || strings.ContainsAny(u.Host, ":@ ") {
		return errors.New("has to name a bucket: s3://bucket/prefix")
	}
	if strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/..") {
		return errors.New("has a prefix that is not plain")
	}
	if e := q.Get("endpoint"); e != "" && !plainEndpoint(e) {
		return errors.New("has an endpoint that is not like https://host:port")
	}
	return nil
}

func plainEndpoint(e string) bool {
	at, err := url.Parse(e)
	return err == nil && (at.Scheme == "http" || at.Scheme == "https") && at.Host != "" && at.User == nil && strings.Trim(at.Path, "/") == "" && at.RawQuery == ""
}

func openBucket(u *url.URL, c Config) (*bucket, error) {
	q := u.Query()
	region := q.Get("region")
	if region == "" {
		region = "us-east-1"
	}
	way := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: 10 * time.Second, IdleConnTimeout: time.Minute, MaxIdleConns: 256, MaxIdleConnsPerHost: 64,
		DisableCompression: true, ForceAttemptHTTP2: true,
	}
	o := &minio.Options{Secure: true, Region: region, Transport: way, MaxRetries: tries}
	host := "s3." + region + ".amazonaws.com"
	if e := q.Get("endpoint"); e != "" {
		at, _ := url.Parse(e) // checked
		host, o.Secure, o.BucketLookup = at.Host, at.Scheme == "https", minio.BucketLookupPath
	}
	if c.AccessKey != "" {
		o.Creds = credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	} else {
		o.Creds = credentials.NewIAM("")
	}
	core, err := minio.NewCore(host, o)
	if err != nil {
		return nil, err
	}
	b := &bucket{c: core, name: u.Host, prefix: strings.Trim(u.Path, "/"), way: way}
	if b.prefix != "" {
		b.prefix += "/"
	}
	return b, nil
}

func (b *bucket) close() { b.way.CloseIdleConnections() }

func (b *bucket) put(ctx context.Context, name, _ string, size int64, body io.ReadSeeker) (string, error) {
	lent := &lentBody{body: body}
	defer lent.back()
	_, err := b.c.Client.PutObject(ctx, b.name, b.prefix+name, lent, size, minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/octet-stream"})
	return name, absent(err)
}

// lentBody is a body that nobody reads any more once it was given back: the HTTP client may
// go on to read one whose request was given up.
type lentBody struct {
	mu   sync.Mutex
	body io.ReadSeeker // nil: given back
}

func (l *lentBody) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		return 0, fs.ErrClosed
	}
	return l.body.Read(p)
}

func (l *lentBody) Seek(offset int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.body == nil {
		return 0, fs.ErrClosed
	}
	return l.body.Seek(offset, whence)
}

func (l *lentBody) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.body = nil
}

func (b *bucket) open(ctx context.Context, name string) (io.ReadCloser, error) {
	body, _, _, err := b.c.GetObject(ctx, b.name, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, absent(err)
	}
	return body, nil
}

// absent makes fs.ErrNotExist of what S3 says of an object that is not there. A bucket
// that is not there is another matter.
func absent(err error) error {
	if err != nil && minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

func (b *bucket) remove(ctx context.Context, list []string) error {
	if len(list) == 1 {
		err := absent(b.c.RemoveObject(ctx, b.name, b.prefix+list[0], minio.RemoveObjectOptions{}))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	objects := make(chan minio.ObjectInfo, len(list))
	for _, name := range list {
		objects <- minio.ObjectInfo{Key: b.prefix + name}
	}
	close(objects)
	var errs []error
	for e := range b.c.RemoveObjects(ctx, b.name, objects, minio.RemoveObjectsOptions{}) {
		if err := absent(e.Err); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (b *bucket) list(ctx context.Context, visit func(name string, changed time.Time) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range b.c.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{Prefix: b.prefix, Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		if err := visit(strings.TrimPrefix(o.Key, b.prefix), o.LastModified); err != nil {
			return err
		}
	}
	return ctx.Err()
}
