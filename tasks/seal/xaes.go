package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"sync/atomic"
)

const (
	nonceSize = 24
	halfSize  = nonceSize / 2

	// runLength is how many values in a row have the first half of their nonces in common, and so
	// the key that follows from it: it is derived once for all of them. The other half is random
	// for each, so that also a copy of a process that runs (a snapshot of its machine) repeats
	// no nonce. Two of 2^55 values under one key of a tenant, 1,000 a second for a million
	// years, have the same nonce with a probability of 2^-32 (n values in runs of r: n·r/2^97).
	runLength = 1 << 10

	// openers is how many derived keys are at hand for opening: what one process has sealed one after
	// another is mostly read one after another.
	openers = 4
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): the first half of the nonce makes a key of
// its own (NIST SP 800-108r1, KDF in counter mode with CMAC), and AES-256-GCM seals under
// that with the other half. Plain AES-GCM with random nonces is bound to 2^32 values a key,
// which a busy tenant's pieces of text would reach.
type xaes struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC's subkey

	run    atomic.Pointer[run]
	opened [openers]atomic.Pointer[derived] // by the first byte of their halves
}

// derived is AES-GCM under the key that follows from half a nonce.
type derived struct {
	half [halfSize]byte
	gcm  cipher.AEAD
}

// run is a derived key of a random half, for the values that come next.
type run struct {
	*derived
	left atomic.Int32 // values that it may still seal; less than none: it is over
}

func newXAES(key []byte) (*xaes, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	x := &xaes{block: block}
	block.Encrypt(x.k1[:], x.k1[:])
	var over byte
	for i := len(x.k1) - 1; i >= 0; i-- {
		next := x.k1[i] >> 7
		x.k1[i] = x.k1[i]<<1 | over
		over = next
	}
	x.k1[len(x.k1)-1] ^= over * 0b10000111
	return x, nil
}

// derive makes the key of half a nonce.
func (x *xaes) derive(half []byte) *derived {
	var key [2 * aes.BlockSize]byte
	for i := range 2 {
		part := key[i*aes.BlockSize : (i+1)*aes.BlockSize]
		copy(part, []byte{0, byte(i + 1), 'X', 0})
		copy(part[4:], half)
		subtle.XORBytes(part, part, x.k1[:])
		x.block.Encrypt(part, part)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // a key of 32 bytes is one
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // so is AES a cipher for it
	}
	return &derived{[halfSize]byte(half), gcm}
}

// next is the derived key of the value that is sealed next.
func (x *xaes) next() *derived {
	was := x.run.Load()
	if was != nil && was.left.Add(-1) >= 0 {
		return was.derived
	}
	var half [halfSize]byte
	_, _ = rand.Read(half[:]) // it never fails (crypto/rand)
	r := &run{derived: x.derive(half[:])}
	r.left.Store(runLength - 1)
	x.run.CompareAndSwap(was, r) // else another came first, and this one is for a single value
	return r.derived
}

// of is the derived key of a value that is opened.
func (x *xaes) of(half []byte) *derived {
	place := &x.opened[half[0]%openers]
	d := place.Load()
	if d == nil || string(d.half[:]) != string(half) {
		d = x.derive(half)
		place.Store(d)
	}
	return d
}

// sealNext appends a random nonce, the ciphertext and its tag to dst.
func (x *xaes) sealNext(dst, plain, additional []byte) []byte {
	d := x.next()
	dst = append(dst, d.half[:]...)
	dst = append(dst, make([]byte, halfSize)...)
	own := dst[len(dst)-halfSize:]
	_, _ = rand.Read(own)
	return d.gcm.Seal(dst, own, plain, additional)
}

// seal appends the ciphertext and its tag to dst, with a nonce that is given.
func (x *xaes) seal(dst, nonce, plain, additional []byte) []byte {
	return x.derive(nonce[:halfSize]).gcm.Seal(dst, nonce[halfSize:nonceSize], plain, additional)
}

func (x *xaes) open(nonce, sealed, additional []byte) ([]byte, error) {
	return x.of(nonce[:halfSize]).gcm.Open(nil, nonce[halfSize:nonceSize], sealed, additional)
}
