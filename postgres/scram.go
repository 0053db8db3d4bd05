package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

const (
	// scramIterations is what Postgres itself uses by default.
	scramIterations = 4096
	scramSaltBytes  = 16
)

// newPassword returns a random password of 26 letters and digits: 130 bits,
// and nothing that a URL, a shell or a .pgpass file would have to quote.
func newPassword() string { return rand.Text() }

// newVerifier returns what Postgres stores for the password. It is safe to
// send and to log: the password cannot be had from it, nor can it log in.
func newVerifier(password string) (string, error) {
	salt := make([]byte, scramSaltBytes)
	rand.Read(salt) // never fails, says its doc
	return scramVerifier(password, salt, scramIterations)
}

// scramVerifier computes the verifier of RFC 5802 in the form of
// pg_authid.rolpassword. The password must be ASCII, for which SASLprep is
// the identity.
func scramVerifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive scram key: %w", err)
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s",
		iterations, b64(salt), b64(stored[:]), b64(keyed(salted, "Server Key"))), nil
}

func keyed(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
