package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"unicode/utf16"
)

// Forms of a CA bundle.
func (m *maker) bundles() {
	root := m.ca("root", "p256", nil)
	other := m.ca("other", "p256", nil)
	leaf := m.leaf("p256", &root)
	good, second := root.pem(), other.pem()
	const end = "-----END CERTIFICATE-----\n"
	body := strings.TrimSuffix(strings.TrimPrefix(good, "-----BEGIN CERTIFICATE-----\n"), end)
	oneLine := strings.ReplaceAll(body, "\n", "")
	wrapped := func(width int) string {
		var out strings.Builder
		for at := 0; at < len(oneLine); at += width {
			out.WriteString(oneLine[at:min(at+width, len(oneLine))] + "\n")
		}
		return out.String()
	}
	as := func(body string) string { return "-----BEGIN CERTIFICATE-----\n" + body + end }
	damaged := strings.Replace(second, "MII", "!!!", 1)
	junk := block("CERTIFICATE", []byte("this is base64, but no certificate"))
	key := root.pkcs8()
	crl := block("X509 CRL", []byte{0x30, 0})
	headers := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: root.der}))
	var wide strings.Builder
	wide.WriteString("\xff\xfe")
	for _, unit := range utf16.Encode([]rune(good)) {
		wide.WriteByte(byte(unit))
		wide.WriteByte(byte(unit >> 8))
	}
	for _, form := range [][2]string{
		{"plain", good}, {"two", second + good}, {"twice", good + good}, {"other-only", second},
		{"crlf", strings.ReplaceAll(good, "\n", "\r\n")}, {"cr", strings.ReplaceAll(good, "\n", "\r")},
		{"text-around", "# root\n" + good + "text\n" + second + "text"}, {"byte-order-mark", "\ufeff" + good},
		{"byte-order-mark-before-other", "\ufeff" + second + good},
		{"damaged-before", damaged + good}, {"damaged-after", good + damaged}, {"damaged-only", damaged},
		{"junk-before", junk + good}, {"junk-after", good + junk}, {"junk-only", junk},
		{"key-before", key + good}, {"key-only", key}, {"crl-between", second + crl + good}, {"crl-only", crl},
		{"trusted-certificate", block("TRUSTED CERTIFICATE", root.der)},
		{"x509-certificate", block("X509 CERTIFICATE", root.der)},
		{"headers", headers}, {"headers-before-good", headers + good},
		{"no-line-break-at-end", strings.TrimSuffix(good, "\n")}, {"no-line-break-between", strings.TrimSuffix(second, "\n") + good},
		{"indented", "  " + strings.ReplaceAll(good, "\n", "\n  ")}, {"width-76", as(wrapped(76))},
		{"one-line", as(oneLine + "\n")}, {"width-8", as(wrapped(8))},
		{"blanks-in-base64", as(strings.ReplaceAll(wrapped(16), "\n", " \n"))}, {"tabs-in-base64", as("\t" + wrapped(64))},
		{"empty-lines-in-base64", as(strings.ReplaceAll(wrapped(64), "\n", "\n\n"))},
		{"blanks-behind-begin", strings.Replace(good, "-----\n", "-----  \n", 1)},
		{"padding-missing", as(strings.TrimRight(oneLine, "=") + "\n")}, {"der", string(root.der)}, {"empty", "\n"},
		{"garbage", "garbage"}, {"cut-off", good[:len(good)/2]}, {"cut-off-before-good", good[:len(good)/2] + "\n" + good},
		{"wrong-end", strings.Replace(good, "END CERTIFICATE", "END X509 CRL", 1)},
		{"wrong-end-before-good", strings.Replace(second, "END CERTIFICATE", "END X509 CRL", 1) + good},
		{"lower-case", strings.ReplaceAll(strings.ReplaceAll(good, "BEGIN", "begin"), "END", "end")},
		{"four-dashes", strings.ReplaceAll(good, "-----", "----")}, {"utf-16", wide.String()},
		{"base64-of-pem", base64.StdEncoding.EncodeToString([]byte(good))},
		{"base64-without-frame", wrapped(64)}, {"text-in-block", as("subject: root\n\n" + wrapped(64))},
	} {
		if form[0] == "utf-16" || form[0] == "der" {
			// JSON holds no such bytes.
			continue
		}
		m.server("bundle/"+form[0], form[1], host, leaf)
	}
}

// Certificates, chains and keys of clients.
func (m *maker) clients() {
	root := m.ca("root", "p256", nil)
	server := m.leaf("p256", &root)
	trust := m.ca("clients", "p256", nil)
	client := func(kind string, issuer *pair, changes ...change) pair {
		set := func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames = "client", nil
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}
		return m.leaf(kind, issuer, append([]change{set}, changes...)...)
	}
	add := func(name, chain, key string) {
		m.add(Case{
			Name: "client/" + name, CA: m.text(root.pem()), Host: host, Chain: m.text(server.pem()), Key: m.text(server.pkcs8()),
			ClientChain: m.text(chain), ClientKey: m.text(key), ClientCA: m.text(trust.pem()),
		})
	}
	for _, kind := range []string{"rsa1024", "rsa2048", "rsa3072", "rsa4096", "p224", "p256", "p384", "p521", "ed25519"} {
		one := client(kind, &trust)
		add("algorithm/"+kind, one.pem(), one.pkcs8())
		switch key := one.key.(type) {
		case *rsa.PrivateKey:
			pkcs1 := x509.MarshalPKCS1PrivateKey(key)
			add("form/pkcs1/"+kind, one.pem(), block("RSA PRIVATE KEY", pkcs1))
			add("label/pkcs1-as-pkcs8/"+kind, one.pem(), block("PRIVATE KEY", pkcs1))
		case *ecdsa.PrivateKey:
			sec1, err := x509.MarshalECPrivateKey(key)
			check(err)
			add("form/sec1/"+kind, one.pem(), block("EC PRIVATE KEY", sec1))
			add("label/sec1-as-pkcs8/"+kind, one.pem(), block("PRIVATE KEY", sec1))
			// As `openssl ecparam -genkey` writes it; the parameters are the curve's identifier.
			add("form/sec1-with-parameters/"+kind, one.pem(), block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7})+block("EC PRIVATE KEY", sec1))
		}
	}
	one, rsa := client("p256", &trust), client("rsa2048", &trust)
	other := m.issue(m.template("client"), m.key("p256", "another"), &trust)
	certificate, key := one.pem(), one.pkcs8()
	sec1, err := x509.MarshalECPrivateKey(one.key.(*ecdsa.PrivateKey))
	check(err)
	sealed := func(label string, der []byte) string {
		//lint:ignore SA1019 the old form is what we test
		block, err := x509.EncryptPEMBlock(rand.Reader, label, der, []byte("password"), x509.PEMCipherAES256)
		check(err)
		return string(pem.EncodeToMemory(block))
	}
	unreadable := make([]byte, 200)
	rand.Read(unreadable)
	encrypted := block("ENCRYPTED PRIVATE KEY", append([]byte{0x30, 0x81, 200}, unreadable...))
	inter := m.ca("client-intermediate", "p256", &trust)
	below := client("p256", &inter)
	damaged := strings.Replace(key, "MIG", "!!!", 1)
	expired := client("p256", &trust, func(c *x509.Certificate) { c.NotAfter = year(2021) })
	early := client("p256", &trust, func(c *x509.Certificate) { c.NotBefore = year(2110) })
	forServers := client("p256", &trust, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	noPurpose := client("p256", &trust, func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	isCA := client("p256", &trust, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	foreign := client("p256", &root)
	ownPem := trust.pem()
	for _, form := range [][3]string{
		{"label/pkcs8-as-sec1", certificate, strings.ReplaceAll(key, "PRIVATE KEY", "EC PRIVATE KEY")},
		{"label/pkcs8-as-pkcs1", rsa.pem(), strings.ReplaceAll(rsa.pkcs8(), "PRIVATE KEY", "RSA PRIVATE KEY")},
		{"label/any", certificate, strings.ReplaceAll(key, "PRIVATE KEY", "ANY PRIVATE KEY")},
		{"label/key-only", certificate, strings.ReplaceAll(key, "PRIVATE KEY", "KEY")},
		{"encrypted/sec1", certificate, sealed("EC PRIVATE KEY", sec1)},
		{"encrypted/pkcs1", rsa.pem(), sealed("RSA PRIVATE KEY", []byte("x"))},
		{"encrypted/pkcs8", certificate, encrypted}, {"encrypted/before-plain", certificate, encrypted + key},
		{"encrypted/behind-plain", certificate, key + encrypted},
		{"key/damaged", certificate, damaged}, {"key/damaged-before-good", certificate, damaged + key},
		{"key/cut-off", certificate, key[:len(key)/2]}, {"key/crlf", certificate, strings.ReplaceAll(key, "\n", "\r\n")},
		{"key/text-around", certificate, "Bag Attributes\n  a: b\n" + key + "text"}, {"key/two", certificate, key + other.pkcs8()},
		{"key/two-other-first", certificate, other.pkcs8() + key}, {"key/other", certificate, other.pkcs8()},
		{"key/of-rsa", certificate, rsa.pkcs8()}, {"key/empty", certificate, "\n"}, {"key/garbage", certificate, "garbage"},
		{"key/certificate", certificate, certificate}, {"key/no-line-break", certificate, strings.TrimSpace(key)},
		{"together/key-behind", certificate + key, certificate + key}, {"together/key-before", key + certificate, key + certificate},
		{"chain/intermediate", below.pem() + inter.pem(), below.pkcs8()}, {"chain/missing-intermediate", below.pem(), below.pkcs8()},
		{"chain/intermediate-first", inter.pem() + below.pem(), below.pkcs8()},
		{"chain/with-root", certificate + ownPem, key}, {"chain/root-first", ownPem + certificate, key},
		{"chain/unrelated-behind", certificate + root.pem(), key}, {"chain/twice", certificate + certificate, key},
		{"chain/damaged-before", strings.Replace(root.pem(), "MII", "!!!", 1) + certificate, key},
		{"chain/damaged-behind", certificate + strings.Replace(root.pem(), "MII", "!!!", 1), key},
		{"chain/damaged", strings.Replace(certificate, "MII", "!!!", 1), key},
		{"chain/junk-behind", certificate + block("CERTIFICATE", []byte("junk")), key},
		{"chain/empty", "\n", key}, {"chain/swapped", key, certificate}, {"chain/crlf", strings.ReplaceAll(certificate, "\n", "\r\n"), key},
		{"chain/trusted-certificate", block("TRUSTED CERTIFICATE", one.der), key},
		{"chain/text-around", "subject=client\n" + certificate + "text", key},
		{"verdict/expired", expired.pem(), expired.pkcs8()}, {"verdict/not-yet-valid", early.pem(), early.pkcs8()},
		{"verdict/for-servers", forServers.pem(), forServers.pkcs8()}, {"verdict/no-purpose", noPurpose.pem(), noPurpose.pkcs8()},
		{"verdict/ca", isCA.pem(), isCA.pkcs8()}, {"verdict/unknown-ca", foreign.pem(), foreign.pkcs8()},
	} {
		add(form[0], form[1], form[2])
	}
}

// Servers that take little.
func (m *maker) limits() {
	root := m.ca("root", "p256", nil)
	add := func(name, kind string, change func(*Case)) {
		leaf := m.leaf(kind, &root)
		one := Case{Name: "limit/" + name, CA: m.text(root.pem()), Host: host, Chain: m.text(leaf.pem()), Key: m.text(leaf.pkcs8())}
		change(&one)
		m.add(one)
	}
	for _, curve := range []tls.CurveID{
		tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
	} {
		add("key-exchange/"+curve.String(), "p256", func(c *Case) { c.Curves = []uint16{uint16(curve)} })
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		kind := "p256"
		switch {
		case strings.HasPrefix(suite.Name, "TLS_AES"), strings.HasPrefix(suite.Name, "TLS_CHACHA"):
			continue
		case !strings.Contains(suite.Name, "ECDSA"):
			kind = "rsa2048"
		}
		add("suite/"+suite.Name, kind, func(c *Case) { c.Suites = []uint16{suite.ID} })
	}
	add("version/1.2", "p256", func(c *Case) { c.Version = tls.VersionTLS12 })
	add("version/1.1", "p256", func(c *Case) { c.Version = tls.VersionTLS11 })
	add("version/1.0", "p256", func(c *Case) { c.Version = tls.VersionTLS10 })
}
