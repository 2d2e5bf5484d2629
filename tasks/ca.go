package tasks

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxCA is how many bytes of PEM vouch for an endpoint's receiver at most.
const MaxCA = 16 << 10

// CA is the certificates, in PEM, that vouch for an endpoint's receiver beside those that
// vouch for all; "" is none. [NewCA] makes it.
type CA string

// The reasons why certificates are refused. None of them quotes the text: it may be a key.
var (
	errCASize = fmt.Errorf("at most %d bytes are kept", MaxCA)
	errCAForm = errors.New("it has to be certificates in the form of PEM, one or more, and nothing else")
	errCACert = errors.New("a certificate in it cannot be read")
)

// NewCA returns the certificates of a text, without what stands between them, or says why
// it is refused. "" is none.
func NewCA(text string) (CA, error) {
	if len(text) > MaxCA {
		return "", errCASize
	}
	var out []byte
	rest := bytes.TrimSpace([]byte(text))
	for len(rest) > 0 {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) {
			return "", errCAForm
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return "", errCAForm
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", errCACert
		}
		out = append(out, pem.EncodeToMemory(block)...)
		rest = bytes.TrimSpace(rest)
	}
	if len(out) == 0 && text != "" {
		return "", errCAForm
	}
	return CA(out), nil
}

// Certificates are those of c.
func (c CA) Certificates() (list []*x509.Certificate) {
	for rest := []byte(c); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return list
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, cert)
		}
	}
}
