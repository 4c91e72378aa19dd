// Asks Go's own crypto/tls and crypto/x509 which certificates, chains, keys and forms of PEM they accept: the table
// that kms-tls is compared with.
//
//	go run .                  prints the certificates of cases.json with Go's answers, as `cargo xtask codegen` does
//	go run . make             prints new certificates with Go's answers
//	go run . serve FILE       serves each case on ports of its own until standard input ends
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// What one side presents and trusts, and what Go says of it. Texts are numbers of the table of texts.
type Case struct {
	Name string `json:"name"`
	// What the client trusts, and the name that it asks for.
	CA   int    `json:"ca"`
	Host string `json:"host"`
	// What the server shows.
	Chain int `json:"chain"`
	Key   int `json:"key"`
	// What the client shows; 0 if nothing. The server then demands a certificate of ClientCA.
	ClientChain int `json:"client_chain,omitempty"`
	ClientKey   int `json:"client_key,omitempty"`
	ClientCA    int `json:"client_ca,omitempty"`
	// Limits of the server, which only a real handshake shows.
	Suites  []uint16 `json:"suites,omitempty"`
	Curves  []uint16 `json:"curves,omitempty"`
	Version uint16   `json:"version,omitempty"`
	// Go's answers with TLS 1.2 and TLS 1.3.
	Go [2]bool `json:"go"`
	// Go's words.
	Why string `json:"why,omitempty"`
}

type Table struct {
	Texts []string `json:"texts"`
	Cases []Case   `json:"cases"`
}

// Both sides judge dates by this time.
var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

var versions = [2]uint16{tls.VersionTLS12, tls.VersionTLS13}

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "make":
		table := generate()
		judge(&table)
		write(table)
	case len(os.Args) == 1:
		table := read("cases.json")
		judge(&table)
		write(table)
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(read(os.Args[2]))
	default:
		fmt.Fprintln(os.Stderr, "usage: [make | serve FILE]")
		os.Exit(2)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func read(file string) Table {
	text, err := os.ReadFile(file)
	check(err)
	var table Table
	check(json.Unmarshal(text, &table))
	return table
}

// One text and one case a line, so that a diff shows what has changed.
func write(table Table) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	lines := func(name string, length int, line func(int) any) {
		fmt.Fprintf(out, "%q: [\n", name)
		for at := range length {
			text, err := json.Marshal(line(at))
			check(err)
			comma := ","
			if at == length-1 {
				comma = ""
			}
			fmt.Fprintf(out, "%s%s\n", text, comma)
		}
		fmt.Fprint(out, "]")
	}
	fmt.Fprintln(out, "{")
	lines("texts", len(table.Texts), func(at int) any { return table.Texts[at] })
	fmt.Fprintln(out, ",")
	lines("cases", len(table.Cases), func(at int) any { return table.Cases[at] })
	fmt.Fprintln(out, "\n}")
}

func judge(table *Table) {
	for at := range table.Cases {
		one := &table.Cases[at]
		one.Why = ""
		for index, version := range versions {
			err := ask(table, *one, version)
			one.Go[index] = err == nil
			if err != nil {
				one.Why = err.Error()
			}
		}
	}
}

// The client's error, or else the server's.
func ask(table *Table, one Case, version uint16) error {
	client, err := clientConfig(table, one)
	if err != nil {
		return err
	}
	server := serverConfig(table, one, version)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		check(err)
		done <- answer(connection, server)
	}()
	connection, err := net.Dial("tcp", listener.Addr().String())
	check(err)
	check(connection.SetDeadline(time.Now().Add(limit)))
	session := tls.Client(connection, client)
	err = session.Handshake()
	if err == nil {
		// With TLS 1.3 the server judges our certificate after our handshake.
		_, err = io.ReadFull(session, make([]byte, 2))
	}
	connection.Close()
	if other := <-done; err != nil && other != nil && one.ClientChain != 0 {
		return other
	}
	return err
}

// How long a handshake may take.
const limit = 20 * time.Second

// Performs the server's handshake, and tells the client that it has succeeded.
func answer(connection net.Conn, config *tls.Config) error {
	defer connection.Close()
	check(connection.SetDeadline(time.Now().Add(limit)))
	session := tls.Server(connection, config)
	if err := session.Handshake(); err != nil {
		return err
	}
	if _, err := session.Write([]byte("ok")); err != nil {
		return err
	}
	session.CloseWrite()
	// The client's alert must not find a closed connection.
	io.Copy(io.Discard, connection)
	return nil
}

func clientConfig(table *Table, one Case) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(table.Texts[one.CA])) {
		return nil, fmt.Errorf("no CA certificate was found")
	}
	config := &tls.Config{RootCAs: roots, ServerName: one.Host, Time: func() time.Time { return now }}
	if one.ClientChain != 0 {
		pair, err := tls.X509KeyPair([]byte(table.Texts[one.ClientChain]), []byte(table.Texts[one.ClientKey]))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func serverConfig(table *Table, one Case, version uint16) *tls.Config {
	if one.Version != 0 && one.Version < version {
		version = one.Version
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{shown(table.Texts[one.Chain], table.Texts[one.Key])},
		MinVersion:   version,
		MaxVersion:   version,
		CipherSuites: one.Suites,
		Time:         func() time.Time { return now },
	}
	if version < tls.VersionTLS12 {
		config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	}
	for _, curve := range one.Curves {
		config.CurvePreferences = append(config.CurvePreferences, tls.CurveID(curve))
	}
	if one.ClientChain != 0 {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM([]byte(table.Texts[one.ClientCA]))
	}
	return config
}

// What the server shows, without a look at it: a server may be configured wrongly.
func shown(chain, key string) tls.Certificate {
	var found tls.Certificate
	rest := []byte(chain)
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		found.Certificate = append(found.Certificate, block.Bytes)
	}
	block, _ := pem.Decode([]byte(key))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(err)
	found.PrivateKey = parsed
	return found
}

func serve(table Table) {
	var ports [][2]int
	for _, one := range table.Cases {
		var both [2]int
		for index, version := range versions {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			check(err)
			both[index] = listener.Addr().(*net.TCPAddr).Port
			config := serverConfig(&table, one, version)
			go func() {
				for {
					connection, err := listener.Accept()
					if err != nil {
						return
					}
					go answer(connection, config)
				}
			}()
		}
		ports = append(ports, both)
	}
	var line bytes.Buffer
	check(json.NewEncoder(&line).Encode(ports))
	os.Stdout.Write(line.Bytes())
	io.Copy(io.Discard, os.Stdin)
}
