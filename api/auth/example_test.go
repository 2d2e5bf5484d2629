package auth_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluicehq/sluice/api/auth"
)

// A token is minted for a tenant, carried in a header, and verified.
func Example() {
	secret := []byte(strings.Repeat("a secret ", 4))
	token, err := auth.Mint(auth.MintConfig{
		Secret: secret, Issuer: "sluice", Audience: "sluice", Subject: "importer", Tenant: "acme", Scopes: []string{auth.ScopeJobsWrite},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := auth.New(auth.Config{Issuer: "sluice", Audience: "sluice", HMACSecret: secret})
	if err != nil {
		fmt.Println(err)
		return
	}

	header := http.Header{"Authorization": {"Bearer " + token}}
	raw, err := auth.Bearer(header)
	if err != nil {
		fmt.Println(err)
		return
	}
	claims, err := verifier.Verify(context.Background(), raw)
	fmt.Println(claims.Subject, "of", claims.Tenant, err)
	fmt.Println("may submit:", claims.Has(auth.ScopeJobsWrite))
	fmt.Println("may see the console:", claims.Has(auth.ScopeMonitor))

	_, err = verifier.Verify(context.Background(), raw+"x")
	fmt.Println("changed:", err != nil)
	// Output:
	// importer of acme <nil>
	// may submit: true
	// may see the console: false
	// changed: true
}
