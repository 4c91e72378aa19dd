package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"time"
)

const host = "server.test"

// Collects the cases.
type maker struct {
	table  Table
	texts  map[string]int
	keys   map[string]crypto.Signer
	serial int64
}

// A certificate with its key; a CA if it signs others.
type pair struct {
	der []byte
	key crypto.Signer
}

func (p pair) pem() string { return block("CERTIFICATE", p.der) }

func (p pair) pkcs8() string {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	check(err)
	return block("PRIVATE KEY", der)
}

func block(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

// The number of a text in the table.
func (m *maker) text(text string) int {
	at, known := m.texts[text]
	if !known {
		at = len(m.table.Texts)
		m.table.Texts = append(m.table.Texts, text)
		m.texts[text] = at
	}
	return at
}

// A key of its own for each name, made once, since RSA takes long.
func (m *maker) key(kind, name string) crypto.Signer {
	if key, known := m.keys[kind+name]; known {
		return key
	}
	var key crypto.Signer
	var err error
	switch kind {
	case "rsa1024":
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	case "rsa2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "rsa4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	case "p224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic(kind)
	}
	check(err)
	m.keys[kind+name] = key
	return key
}

type change func(*x509.Certificate)

func year(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }

func (m *maker) template(name string) *x509.Certificate {
	m.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(m.serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    year(2020),
		NotAfter:     year(2120),
	}
}

func (m *maker) issue(template *x509.Certificate, key crypto.Signer, issuer *pair) pair {
	parent, signer := template, key
	if issuer != nil {
		parsed, err := x509.ParseCertificate(issuer.der)
		check(err)
		parent, signer = parsed, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	check(err)
	return pair{der, key}
}

// A CA; a root without `issuer`.
func (m *maker) ca(name, kind string, issuer *pair, changes ...change) pair {
	template := m.template(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	for _, change := range changes {
		change(template)
	}
	return m.issue(template, m.key(kind, name), issuer)
}

// A certificate of the server; self-signed without `issuer`.
func (m *maker) leaf(kind string, issuer *pair, changes ...change) pair {
	template := m.template("leaf")
	template.DNSNames = []string{host}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, change := range changes {
		change(template)
	}
	return m.issue(template, m.key(kind, "leaf"), issuer)
}

// The parts of a certificate that Go's library does not let one change.
type raw struct {
	TBS       tbs
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type tbs struct {
	Version    int `asn1:"optional,explicit,default:0,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Extensions []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

// Changes a certificate and signs it anew with an ECDSA key, with SHA-256.
func resign(certificate pair, signer crypto.Signer, change func(*tbs)) pair {
	var parsed raw
	_, err := asn1.Unmarshal(certificate.der, &parsed)
	check(err)
	change(&parsed.TBS)
	signed, err := asn1.Marshal(parsed.TBS)
	check(err)
	hash := crypto.SHA256.New()
	hash.Write(signed)
	signature, err := signer.Sign(rand.Reader, hash.Sum(nil), crypto.SHA256)
	check(err)
	parsed.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	der, err := asn1.Marshal(parsed)
	check(err)
	return pair{der, certificate.key}
}

func (m *maker) add(one Case) { m.table.Cases = append(m.table.Cases, one) }

// A server with a chain, and a client that trusts a bundle.
func (m *maker) server(name, bundle, host string, chain ...pair) {
	var shown strings.Builder
	for _, one := range chain {
		shown.WriteString(one.pem())
	}
	m.add(Case{Name: name, CA: m.text(bundle), Host: host, Chain: m.text(shown.String()), Key: m.text(chain[0].pkcs8())})
}

func generate() Table {
	m := &maker{texts: map[string]int{}, keys: map[string]crypto.Signer{}}
	m.text("")
	m.algorithms()
	m.pinned()
	m.chains()
	m.names()
	m.dates()
	m.purposes()
	m.extensions()
	m.encodings()
	m.bundles()
	m.clients()
	m.limits()
	return m.table
}

func (m *maker) algorithms() {
	leaves := []string{"rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519"}
	for _, kind := range []string{"rsa2048", "rsa4096", "p256", "p384", "p521", "ed25519"} {
		root := m.ca("root-"+kind, kind, nil)
		for _, leaf := range leaves {
			m.server("algorithm/"+kind+"/"+leaf, root.pem(), host, m.leaf(leaf, &root))
		}
	}
	hashes := map[string][]x509.SignatureAlgorithm{
		"rsa2048": {
			x509.SHA1WithRSA, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS,
			x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		},
		"p256": {x509.ECDSAWithSHA1, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512},
	}
	hashes["p384"], hashes["p521"] = hashes["p256"], hashes["p256"]
	for _, kind := range []string{"rsa2048", "p256", "p384", "p521"} {
		root := m.ca("root-"+kind, kind, nil)
		for _, algorithm := range hashes[kind] {
			set := func(c *x509.Certificate) { c.SignatureAlgorithm = algorithm }
			m.server("hash/"+kind+"/"+algorithm.String(), root.pem(), host, m.leaf("p256", &root, set))
		}
	}
	root := m.ca("root", "p256", nil)
	m.server("weak/leaf-rsa1024", root.pem(), host, m.leaf("rsa1024", &root))
	weak := m.ca("weak", "rsa1024", nil)
	m.server("weak/ca-rsa1024", weak.pem(), host, m.leaf("p256", &weak))
	old := m.ca("old", "p224", nil)
	m.server("weak/ca-p224", old.pem(), host, m.leaf("p256", &old))
	m.server("weak/leaf-p224", root.pem(), host, m.leaf("p224", &root))
	self := m.ca("self", "p256", nil, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	m.server("weak/root-signed-with-sha1", self.pem(), host, m.leaf("p256", &self))
}

// The server's certificate itself is what the client trusts.
func (m *maker) pinned() {
	isCA := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }
	signs := func(c *x509.Certificate) { isCA(c); c.KeyUsage |= x509.KeyUsageCertSign }
	noCA := func(c *x509.Certificate) { c.BasicConstraintsValid = true }
	root := m.ca("root", "p256", nil)
	for _, kind := range []string{"rsa2048", "p256", "p384", "p521", "ed25519"} {
		own := m.leaf(kind, nil, signs)
		m.server("pinned/self-signed-ca/"+kind, own.pem(), host, own)
	}
	for name, changes := range map[string][]change{"": {}, "-ca": {isCA}, "-signs": {signs}, "-no-ca": {noCA}} {
		own := m.leaf("p256", nil, changes...)
		m.server("pinned/self-signed"+name, own.pem(), host, own)
		m.server("pinned/self-signed"+name+"/other-host", own.pem(), "other.test", own)
		issued := m.leaf("p256", &root, changes...)
		m.server("pinned/issued"+name, issued.pem(), host, issued)
		m.server("pinned/issued"+name+"/with-root", root.pem()+issued.pem(), host, issued)
		m.server("pinned/issued"+name+"/root-only", root.pem(), host, issued)
		m.server("pinned/twin"+name, m.leaf("p256", nil, changes...).pem(), host, own)
		forged := m.leaf("p256", &own, func(c *x509.Certificate) { c.DNSNames = []string{"other.test"} })
		m.server("pinned/forged"+name, own.pem(), "other.test", forged)
	}
	expired := m.leaf("p256", nil, signs, func(c *x509.Certificate) { c.NotAfter = year(2021) })
	m.server("pinned/expired", expired.pem(), host, expired)
	early := m.leaf("p256", nil, func(c *x509.Certificate) { c.NotBefore = year(2110) })
	m.server("pinned/not-yet-valid", early.pem(), host, early)
	client := m.leaf("p256", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	m.server("pinned/for-clients", client.pem(), host, client)
	any := m.leaf("p256", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	m.server("pinned/for-any-purpose", any.pem(), host, any)
}

func (m *maker) chains() {
	root := m.ca("root", "p256", nil)
	other := m.ca("other", "p256", nil)
	inter := m.ca("intermediate", "p256", &root)
	leaf := m.leaf("p256", &inter)
	m.server("chain/in-order", root.pem(), host, leaf, inter)
	m.server("chain/with-root", root.pem(), host, leaf, inter, root)
	m.server("chain/root-before-intermediate", root.pem(), host, leaf, root, inter)
	m.server("chain/missing-intermediate", root.pem(), host, leaf)
	m.server("chain/intermediate-in-bundle", root.pem()+inter.pem(), host, leaf)
	m.server("chain/intermediate-alone-trusted", inter.pem(), host, leaf)
	m.server("chain/unrelated-first", root.pem(), host, leaf, other, inter)
	m.server("chain/duplicates", root.pem(), host, leaf, inter, inter, leaf)
	m.server("chain/unknown-root", other.pem(), host, leaf, inter, root)
	m.server("chain/two-roots-in-bundle", other.pem()+root.pem(), host, leaf, inter)
	m.server("chain/garbage-behind", root.pem(), host, leaf, inter, pair{[]byte("not DER"), leaf.key})
	deep := root
	shown := []pair{}
	for depth := 1; depth <= 6; depth++ {
		deep = m.ca("deep", "p256", &deep, func(c *x509.Certificate) { c.Subject.SerialNumber = string(rune('0' + depth)) })
		shown = append([]pair{deep}, shown...)
		m.server("chain/depth/"+string(rune('0'+depth)), root.pem(), host, append([]pair{m.leaf("p256", &deep)}, shown...)...)
	}
	limited := m.ca("limited", "p256", nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	m.server("chain/root-path-0/direct", limited.pem(), host, m.leaf("p256", &limited))
	below := m.ca("below", "p256", &limited)
	m.server("chain/root-path-0/one-below", limited.pem(), host, m.leaf("p256", &below), below)
	short := m.ca("short", "p256", &root, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	m.server("chain/intermediate-path-0/direct", root.pem(), host, m.leaf("p256", &short), short)
	under := m.ca("under", "p256", &short)
	m.server("chain/intermediate-path-0/one-below", root.pem(), host, m.leaf("p256", &under), under, short)
	noCA := func(c *x509.Certificate) { c.IsCA = false }
	without := func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }
	noSign := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }
	noUsage := func(c *x509.Certificate) { c.KeyUsage = 0 }
	for name, change := range map[string]change{"no-ca": noCA, "no-constraints": without, "no-cert-sign": noSign, "no-key-usage": noUsage} {
		bad := m.ca("bad-"+name, "p256", nil, change)
		m.server("chain/root-"+name, bad.pem(), host, m.leaf("p256", &bad))
		bad = m.ca("bad-"+name, "p256", &root, change)
		m.server("chain/intermediate-"+name, root.pem(), host, m.leaf("p256", &bad), bad)
	}
	// Two intermediates of one name, of which the first has another key, or has expired.
	twin := m.ca("intermediate", "p384", &root)
	m.server("chain/twin-first", root.pem(), host, leaf, twin, inter)
	expired := m.ca("intermediate", "p256", &root, func(c *x509.Certificate) { c.NotAfter = year(2021) })
	m.server("chain/expired-twin-first", root.pem(), host, leaf, expired, inter)
	m.server("chain/expired-intermediate", root.pem(), host, leaf, expired)
	early := m.ca("intermediate", "p256", &root, func(c *x509.Certificate) { c.NotBefore = year(2110) })
	m.server("chain/early-intermediate", root.pem(), host, leaf, early)
	gone := m.ca("gone", "p256", nil, func(c *x509.Certificate) { c.NotAfter = year(2021) })
	m.server("chain/expired-root", gone.pem(), host, m.leaf("p256", &gone))
	cross := m.ca("root", "p256", &other)
	m.server("chain/cross-signed", other.pem(), host, leaf, inter, cross)
	m.server("chain/cross-signed/both-roots", other.pem()+root.pem(), host, leaf, inter, cross)
	replaced := pair{m.ca("root", "p384", nil).der, root.key}
	m.server("chain/new-key-of-the-root", replaced.pem(), host, leaf, inter)
	m.server("chain/old-and-new-key-of-the-root", replaced.pem()+root.pem(), host, leaf, inter)
}

func (m *maker) names() {
	root := m.ca("root", "p256", nil)
	try := func(name, asked string, dns []string, ips ...string) {
		m.server("name/"+name, root.pem(), asked, m.leaf("p256", &root, func(c *x509.Certificate) {
			c.DNSNames = dns
			for _, ip := range ips {
				parsed := net.ParseIP(ip)
				if short := parsed.To4(); short != nil {
					parsed = short
				}
				c.IPAddresses = append(c.IPAddresses, parsed)
			}
		}))
	}
	try("exact", host, []string{host})
	try("other", host, []string{"other.test"})
	try("second", host, []string{"other.test", host})
	try("upper-case-certificate", host, []string{"SERVER.Test"})
	try("upper-case-host", "SERVER.TEST", []string{host})
	try("prefix", host, []string{"server.test.example"})
	try("suffix", host, []string{"my.server.test"})
	try("wildcard", "a.server.test", []string{"*.server.test"})
	try("wildcard-two-labels", "a.b.server.test", []string{"*.server.test"})
	try("wildcard-apex", host, []string{"*.server.test"})
	try("wildcard-top", host, []string{"*.test"})
	try("wildcard-partial", host, []string{"s*.test"})
	try("wildcard-inner", "a.b.test", []string{"a.*.test"})
	try("wildcard-alone", "localhost", []string{"*"})
	try("single-label", "localhost", []string{"localhost"})
	try("underscore", "my_server.test", []string{"my_server.test"})
	try("punycode", "xn--bcher-kva.test", []string{"xn--bcher-kva.test"})
	try("number", "1server.test", []string{"1server.test"})
	try("trailing-dot-in-certificate", host, []string{"server.test."})
	try("malformed-beside-good", host, []string{"my server", host})
	try("empty-beside-good", host, []string{"", host})
	try("many", host, append(strings.Fields(strings.Repeat("a.test ", 200)), host))
	try("kubernetes", "vault.vault.svc.cluster.local", []string{"vault", "vault.vault.svc", "vault.vault.svc.cluster.local"})
	try("ip4", "10.0.0.1", nil, "10.0.0.1")
	try("ip4-other", "10.0.0.1", nil, "10.0.0.2")
	try("ip4-as-dns-name", "10.0.0.1", []string{"10.0.0.1"})
	try("ip6", "2001:db8::1", nil, "2001:db8::1")
	try("ip6-other", "2001:db8::1", nil, "2001:db8::2")
	try("ip-beside-name", host, []string{host}, "10.0.0.1")
	try("ip-only", host, nil, "10.0.0.1")
	named := func(name string, change change) {
		m.server("name/"+name, root.pem(), host, m.leaf("p256", &root, change))
	}
	named("common-name-only", func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, host })
	named("common-name-beside-other", func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = []string{"other.test"}, host })
	named("mail-only", func(c *x509.Certificate) { c.DNSNames, c.EmailAddresses = nil, []string{"a@server.test"} })
	named("mail-beside-name", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@server.test"} })
	named("empty-subject", func(c *x509.Certificate) { c.Subject = pkix.Name{} })
	named("subject-utf8", func(c *x509.Certificate) { c.Subject.CommonName = "Schlüssel" })
}

func (m *maker) dates() {
	root := m.ca("root", "p256", nil)
	try := func(name string, from, to time.Time) {
		m.server("date/"+name, root.pem(), host, m.leaf("p256", &root, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to }))
	}
	try("expired", year(2020), year(2021))
	try("not-yet-valid", year(2110), year(2120))
	try("for-ever", year(2020), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))
	try("since-1955", year(1955), year(2120))
	try("outlives-the-ca", year(2010), year(2130))
	try("ends-before-it-begins", year(2120), year(2020))
}

func (m *maker) purposes() {
	root := m.ca("root", "p256", nil)
	sets := map[string][]x509.ExtKeyUsage{
		"none": nil, "server": {x509.ExtKeyUsageServerAuth}, "client": {x509.ExtKeyUsageClientAuth},
		"both": {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, "any": {x509.ExtKeyUsageAny},
		"code": {x509.ExtKeyUsageCodeSigning}, "client-and-any": {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageAny},
	}
	for name, usages := range sets {
		set := func(c *x509.Certificate) { c.ExtKeyUsage = usages }
		m.server("purpose/leaf/"+name, root.pem(), host, m.leaf("p256", &root, set))
		inter := m.ca("intermediate-"+name, "p256", &root, set)
		m.server("purpose/intermediate/"+name, root.pem(), host, m.leaf("p256", &inter), inter)
		self := m.ca("root-"+name, "p256", nil, set)
		m.server("purpose/root/"+name, self.pem(), host, m.leaf("p256", &self))
	}
	for name, usage := range map[string]x509.KeyUsage{
		"none": 0, "encipherment": x509.KeyUsageKeyEncipherment, "agreement": x509.KeyUsageKeyAgreement,
		"sign-and-encipherment": x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	} {
		m.server("usage/"+name, root.pem(), host, m.leaf("p256", &root, func(c *x509.Certificate) { c.KeyUsage = usage }))
	}
	m.server("usage/encipherment/rsa", root.pem(), host, m.leaf("rsa2048", &root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }))
}

func (m *maker) extensions() {
	root := m.ca("root", "p256", nil)
	unknown := func(critical bool) change {
		extension := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: critical, Value: []byte{5, 0}}
		return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, extension) }
	}
	for name, change := range map[string]change{"unknown": unknown(false), "unknown-critical": unknown(true)} {
		m.server("extension/leaf/"+name, root.pem(), host, m.leaf("p256", &root, change))
		inter := m.ca("intermediate-"+name, "p256", &root, change)
		m.server("extension/intermediate/"+name, root.pem(), host, m.leaf("p256", &inter), inter)
		self := m.ca("root-"+name, "p256", nil, change)
		m.server("extension/root/"+name, self.pem(), host, m.leaf("p256", &self))
	}
	leaf := func(name string, change change) {
		m.server("extension/"+name, root.pem(), host, m.leaf("p256", &root, change))
	}
	leaf("policies", func(c *x509.Certificate) {
		c.Policies = []x509.OID{mustOID(1, 2, 3, 4)}
	})
	leaf("issuer-address", func(c *x509.Certificate) {
		c.IssuingCertificateURL, c.OCSPServer = []string{"http://ca.test/"}, []string{"http://ocsp.test/"}
	})
	leaf("crl-address", func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://ca.test/crl"} })
	leaf("must-staple", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	})
	constrained := func(name, asked string, change change, names []string, ips ...net.IP) {
		set := func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = names, ips }
		inter := m.ca("constrained", "p256", &root, change)
		m.server("constraint/"+name, root.pem(), asked, m.leaf("p256", &inter, set), inter)
		self := m.ca("constrained-root", "p256", nil, change)
		m.server("constraint/"+name+"/root", self.pem(), asked, m.leaf("p256", &self, set))
	}
	critical := func(change change) change {
		return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = true; change(c) }
	}
	permitted := critical(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"test"} })
	excluded := critical(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"test"} })
	_, ten, _ := net.ParseCIDR("10.0.0.0/8")
	network := critical(func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{ten} })
	mail := critical(func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"test"} })
	constrained("permitted", host, permitted, []string{host})
	constrained("not-permitted", "server.example", permitted, []string{"server.example"})
	constrained("one-of-two-not-permitted", host, permitted, []string{host, "server.example"})
	constrained("excluded", host, excluded, []string{host})
	constrained("not-excluded", "server.example", excluded, []string{"server.example"})
	constrained("network", "10.1.2.3", network, nil, net.IP{10, 1, 2, 3})
	constrained("other-network", "192.0.2.1", network, nil, net.IP{192, 0, 2, 1})
	constrained("mail", host, mail, []string{host})
}

func mustOID(numbers ...uint64) x509.OID {
	oid, err := x509.OIDFromInts(numbers)
	check(err)
	return oid
}

// Versions, serial numbers, and damage of the encoding.
func (m *maker) encodings() {
	root := m.ca("root", "p256", nil)
	leaf := m.leaf("p256", &root)
	first := func(t *tbs) { t.Version, t.Extensions = 0, nil }
	m.server("version/leaf-1", root.pem(), host, resign(leaf, root.key, first))
	old := resign(root, root.key, first)
	m.server("version/root-1", old.pem(), host, leaf)
	inter := m.ca("intermediate", "p256", &root)
	below := m.leaf("p256", &inter)
	m.server("version/intermediate-1", root.pem(), host, below, resign(inter, root.key, first))
	m.server("version/leaf-2", root.pem(), host, resign(leaf, root.key, func(t *tbs) { t.Version, t.Extensions = 1, nil }))
	own := m.leaf("p256", nil)
	own = resign(own, own.key, first)
	m.server("version/pinned-1", own.pem(), host, own)
	serial := func(name string, number *big.Int) {
		changed := resign(leaf, root.key, func(t *tbs) { t.Serial = number })
		m.server("serial/"+name, root.pem(), host, changed)
		self := resign(root, root.key, func(t *tbs) { t.Serial = number })
		m.server("serial/"+name+"/root", self.pem(), host, leaf)
	}
	serial("zero", big.NewInt(0))
	serial("negative", big.NewInt(-5))
	serial("20-bytes", new(big.Int).Lsh(big.NewInt(1), 158))
	serial("21-bytes", new(big.Int).Lsh(big.NewInt(1), 166))
	twice := func(t *tbs) { t.Extensions = append(t.Extensions, t.Extensions[0]) }
	m.server("encoding/extension-twice", root.pem(), host, resign(leaf, root.key, twice))
	damaged := append([]byte{}, leaf.der...)
	damaged[len(damaged)-1] ^= 1
	m.server("encoding/signature-damaged", root.pem(), host, pair{damaged, leaf.key})
	m.server("encoding/trailing-bytes", root.pem(), host, pair{append(append([]byte{}, leaf.der...), 0, 0), leaf.key})
	m.server("encoding/cut-off", root.pem(), host, pair{leaf.der[:len(leaf.der)-9], leaf.key})
	printable := m.ca("root", "p256", nil)
	var name pkix.RDNSequence
	_, err := asn1.Unmarshal(mustParse(leaf).RawIssuer, &name)
	check(err)
	name[0][0].Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("root")}
	encoded, err := asn1.Marshal(name)
	check(err)
	m.server("encoding/issuer-as-utf8", printable.pem(), host, resign(leaf, root.key, func(t *tbs) { t.Issuer = asn1.RawValue{FullBytes: encoded} }))
}

func mustParse(one pair) *x509.Certificate {
	parsed, err := x509.ParseCertificate(one.der)
	check(err)
	return parsed
}
