package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"sync"
	"time"
)

// authority is the CA of one trust domain: the roots that are trusted, and which of them signs.
type authority struct {
	trustDomain string
	lifetime    time.Duration

	mu      sync.Mutex
	roots   []root
	signer  int
	changed chan struct{}
}

// root is one CA certificate with what it signed.
type root struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	issued      []x509.RevocationListEntry
	// DER; none until something was revoked.
	revocations []byte
	number      int64
}

// newAuthority starts with a root of its own, or with the one in this PEM file: certificate and key.
func newAuthority(trustDomain string, lifetime time.Duration, file string) *authority {
	a := &authority{trustDomain: trustDomain, lifetime: lifetime, changed: make(chan struct{})}
	if file == "" {
		a.roots = []root{a.newRoot()}
	} else {
		pair := must(tls.LoadX509KeyPair(file, file))
		a.roots = []root{{certificate: pair.Leaf, key: pair.PrivateKey.(*ecdsa.PrivateKey)}}
	}
	return a
}

func (a *authority) newRoot() root {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	number := serial()
	template := &x509.Certificate{
		SerialNumber: number,
		// Two roots of one name would be told apart by their keys alone.
		Subject:               pkix.Name{Organization: []string{a.trustDomain}, SerialNumber: number.String()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{must(url.Parse("spiffe://" + a.trustDomain))},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return root{certificate: must(x509.ParseCertificate(der)), key: key}
}

// issue makes a certificate and its key, both DER.
func (a *authority) issue(id string) (certificate, privateKey []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	signer := &a.roots[a.signer]
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber:          serial(),
		NotBefore:             time.Now().Add(-10 * time.Second),
		NotAfter:              time.Now().Add(a.lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{must(url.Parse(id))},
	}
	signer.issued = append(signer.issued, x509.RevocationListEntry{
		SerialNumber: template.SerialNumber, RevocationTime: time.Now(),
	})
	der := must(x509.CreateCertificate(rand.Reader, template, signer.certificate, &key.PublicKey, signer.key))
	return der, must(x509.MarshalPKCS8PrivateKey(key))
}

// bundle is every trusted root, DER, one behind the other.
func (a *authority) bundle() (all []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, root := range a.roots {
		all = append(all, root.certificate.Raw...)
	}
	return all
}

func (a *authority) revocations() (all [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, root := range a.roots {
		if root.revocations != nil {
			all = append(all, root.revocations)
		}
	}
	return all
}

// changes is closed at the next change.
func (a *authority) changes() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

func (a *authority) change(what func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	what()
	close(a.changed)
	a.changed = make(chan struct{})
}

// rotate replaces the root so that nobody ever meets a certificate whose root is unknown to it.
func (a *authority) rotate() {
	fresh := a.newRoot()
	a.change(func() { a.roots = append(a.roots, fresh) })
	say("both roots are trusted")
	time.AfterFunc(a.lifetime/2, func() {
		a.change(func() { a.signer = len(a.roots) - 1 })
		say("the new root signs")
	})
	time.AfterFunc(a.lifetime/2+2*a.lifetime, func() {
		a.change(func() { a.roots, a.signer = a.roots[len(a.roots)-1:], 0 })
		say("the old root is gone")
	})
}

func (a *authority) revokeAll() {
	a.change(func() {
		for i := range a.roots {
			root := &a.roots[i]
			root.number++
			template := &x509.RevocationList{
				Number:                    big.NewInt(root.number),
				ThisUpdate:                time.Now().Add(-time.Second),
				NextUpdate:                time.Now().Add(24 * time.Hour),
				RevokedCertificateEntries: root.issued,
			}
			root.revocations = must(x509.CreateRevocationList(rand.Reader, template, root.certificate, root.key))
		}
	})
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)))
}
