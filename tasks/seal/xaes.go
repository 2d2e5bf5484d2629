package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// nonceSize is long enough that random nonces never meet: 2^80 values under one key
// have two alike with a probability of 2^-32.
const nonceSize = 24

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): the first half of the nonce makes a key of
// its own (NIST SP 800-108r1, KDF in counter mode with CMAC), and AES-256-GCM seals under
// that with the other half. Plain AES-GCM with random nonces is bound to 2^32 values a key,
// which a busy tenant's pieces of text would reach.
type xaes struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // CMAC's subkey
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

// derived is AES-GCM under the key of half a nonce.
func (x *xaes) derived(half []byte) cipher.AEAD {
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
	return gcm
}

// seal appends the ciphertext and its tag to dst.
func (x *xaes) seal(dst, nonce, plain, additional []byte) []byte {
	return x.derived(nonce[:nonceSize/2]).Seal(dst, nonce[nonceSize/2:nonceSize], plain, additional)
}

func (x *xaes) open(nonce, sealed, additional []byte) ([]byte, error) {
	return x.derived(nonce[:nonceSize/2]).Open(nil, nonce[nonceSize/2:nonceSize], sealed, additional)
}
