package tasks

import "time"

// DocumentKind is what a document describes.
type DocumentKind string

// The kinds of documents.
const (
	FileDocument  DocumentKind = "file"  // a file of OpenAI's form; it may have content
	BatchDocument DocumentKind = "batch" // what a batch of OpenAI's form has beside our own
	// UploadDocument says which file an upload with an Idempotency-Key has made.
	UploadDocument DocumentKind = "upload"
)

// DocumentFilter selects a tenant's documents of a kind, newest first.
type DocumentFilter struct {
	Tenant string
	Kind   DocumentKind
	After  string // the id of the last document of the page before; "" for the first page
	Limit  int    // 1 to 1000
	Oldest bool   // the oldest is first
}

// Document is something of a tenant's that a form of the API keeps in its own way.
type Document struct {
	ID      string // sorts by when it was made, among those of its kind
	Tenant  string // its owner; a user stands beside it when it was read
	User    string // as of a Job
	Kind    DocumentKind
	Body    []byte        // JSON, which its form alone reads
	Expires time.Duration // from now
}

// ContentKept is how long content is kept whose document never came.
const ContentKept = time.Hour
