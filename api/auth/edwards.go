package auth

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// edKey is an Ed25519 key (RFC 8037): a point of the curve in its one encoding (RFC 8032
// section 5.1.3) that is not of small order. Under one of those, signatures of texts that
// nobody has signed are good.
func (k jwk) edKey() (ed25519.PublicKey, error) {
	b, err := octets("x", k.X)
	switch {
	case err != nil:
		return nil, err
	case len(b) != ed25519.PublicKeySize:
		return nil, fmt.Errorf("x must be %d bytes", ed25519.PublicKeySize)
	}
	p := edPrime()
	le := slices.Clone(b)
	slices.Reverse(le)
	odd := le[0] >> 7
	le[0] &= 0x7f
	y := new(big.Int).SetBytes(le)
	if y.Cmp(p) >= 0 {
		return nil, errors.New("x is no encoding of a point: it is not below the field's prime")
	}
	d := edConstant(p)
	yy := mod(new(big.Int).Mul(y, y), p)
	u := mod(new(big.Int).Sub(yy, big.NewInt(1)), p)
	v := mod(new(big.Int).Add(new(big.Int).Mul(d, yy), big.NewInt(1)), p)
	x := new(big.Int).ModSqrt(mod(u.Mul(u, v.ModInverse(v, p)), p), p)
	if x == nil || x.Sign() == 0 && odd == 1 {
		return nil, errors.New("x is not on the curve")
	}
	for range 3 {
		x, y = edDouble(x, y, d, p)
	}
	if x.Sign() == 0 && y.Cmp(big.NewInt(1)) == 0 { // eight times the point is nothing
		return nil, errors.New("x is a point of small order, under which anybody can sign")
	}
	return ed25519.PublicKey(b), nil
}

func mod(n, p *big.Int) *big.Int { return n.Mod(n, p) }

func edPrime() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(1), 255)
	return p.Sub(p, big.NewInt(19))
}

// edConstant is d of the curve, -121665/121666.
func edConstant(p *big.Int) *big.Int {
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	return mod(d.Mul(d, big.NewInt(-121665)), p)
}

// edDouble adds a point to itself: x = 2xy/(1+dxxyy), y = (yy+xx)/(1-dxxyy).
func edDouble(x, y, d, p *big.Int) (*big.Int, *big.Int) {
	xx, yy, xy := new(big.Int).Mul(x, x), new(big.Int).Mul(y, y), new(big.Int).Mul(x, y)
	t := mod(new(big.Int).Mul(d, new(big.Int).Mul(xx, yy)), p)
	below := func(n *big.Int) *big.Int { return n.ModInverse(mod(n, p), p) }
	one := big.NewInt(1)
	twice := new(big.Int).Mul(new(big.Int).Lsh(xy, 1), below(new(big.Int).Add(one, t)))
	sum := new(big.Int).Mul(new(big.Int).Add(yy, xx), below(new(big.Int).Sub(one, t)))
	return mod(twice, p), mod(sum, p)
}
