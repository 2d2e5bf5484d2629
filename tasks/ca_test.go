package tasks_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestWhatVouchesForAReceiver(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	der := server.Certificate().Raw
	block := func(b pem.Block) string { return string(pem.EncodeToMemory(&b)) }
	one := block(pem.Block{Type: "CERTIFICATE", Bytes: der})
	for what, c := range map[string]struct {
		text string
		want int
	}{
		"none": {"", 0}, "one": {one, 1}, "two": {one + one, 2}, "white space around": {"\n " + one + "\n\n" + one + "\t\n", 2},
		"ends of lines of Windows": {strings.ReplaceAll(one, "\n", "\r\n"), 1},
	} {
		ca, err := tasks.NewCA(c.text)
		if err != nil || len(ca.Certificates()) != c.want {
			t.Errorf("%s: %d certificates, %v", what, len(ca.Certificates()), err)
		}
		if again, err := tasks.NewCA(string(ca)); err != nil || again != ca {
			t.Errorf("%s: what is kept is refused: %v", what, err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	secret := block(pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for what, text := range map[string]string{
		"white space alone": " \n", "no PEM": "canary", "a key": secret, "a key behind": one + secret, "a key before": secret + one,
		"text before": "canary\n" + one, "text between": one + "canary\n" + one, "text behind": one + "canary", "half": one[:len(one)/2],
		"headers":        block(pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "canary"}, Bytes: der}),
		"no certificate": block(pem.Block{Type: "CERTIFICATE", Bytes: []byte("canary")}), "cut": block(pem.Block{Type: "CERTIFICATE", Bytes: der[:len(der)-1]}),
		"a request": block(pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), "too long": one + strings.Repeat("\n", tasks.MaxCA),
	} {
		if ca, err := tasks.NewCA(text); err == nil || ca != "" || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %q, %v", what, ca, err)
		}
	}
}
