// Prints, as JSON, which proxy Go's own library chooses for a request: the table that kms-http and kms-kube are
// compared with. `cargo xtask codegen` writes it to cases.json.
package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"

	"golang.org/x/net/http/httpproxy"
)

// A question, and Go's answer.
type Case struct {
	Env   map[string]string `json:"env"`
	URL   string            `json:"url"`
	Proxy *string           `json:"proxy"`
	// Whether Go refuses the request.
	Refused bool `json:"refused"`
}

const (
	web    = "http://proxy.example:3128"
	secure = "http://secure.example:3129"
)

// Every variable that the library reads, in both spellings.
var variables = []string{
	"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "REQUEST_METHOD",
	// Read by other programs, but not by Go.
	"ALL_PROXY", "all_proxy", "Https_Proxy",
}

func main() {
	fmt.Println("[")
	questions := questions()
	for at, question := range questions {
		text, err := json.Marshal(ask(question))
		check(err)
		comma := ","
		if at == len(questions)-1 {
			comma = ""
		}
		fmt.Printf("%s%s\n", text, comma)
	}
	fmt.Println("]")
}

func ask(question Case) Case {
	for _, name := range variables {
		check(os.Unsetenv(name))
	}
	for name, value := range question.Env {
		check(os.Setenv(name, value))
	}
	target, err := url.Parse(question.URL)
	check(err)
	proxy, err := httpproxy.FromEnvironment().ProxyFunc()(target)
	question.Refused = err != nil
	if proxy != nil {
		text := proxy.String()
		question.Proxy = &text
	}
	return question
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func questions() []Case {
	var all []Case
	add := func(url string, env map[string]string) { all = append(all, Case{Env: env, URL: url}) }
	// With a proxy for each scheme, and exclusions.
	except := func(noProxy string, urls ...string) {
		for _, url := range urls {
			add(url, map[string]string{"HTTP_PROXY": web, "HTTPS_PROXY": secure, "NO_PROXY": noProxy})
		}
	}

	// Loopback, and what looks like it.
	except("",
		"http://localhost", "https://localhost:8200", "http://127.0.0.1:8200", "http://127.0.0.53",
		"https://127.255.255.254", "http://[::1]:8100", "http://[::ffff:127.0.0.1]", "http://[::ffff:10.0.0.1]",
		"http://localhost.:8200", "http://localhost.example", "http://sub.localhost:8200", "http://mylocalhost",
		"http://0.0.0.0:8200", "http://128.0.0.1", "http://[::2]", "http://[::]:8200", "http://169.254.169.254/metadata")

	// Which variable applies.
	add("http://kms.example", map[string]string{})
	add("http://kms.example", map[string]string{"HTTP_PROXY": web})
	add("https://kms.example", map[string]string{"HTTP_PROXY": web})
	add("https://kms.example", map[string]string{"HTTPS_PROXY": secure})
	add("http://kms.example", map[string]string{"HTTPS_PROXY": secure})
	add("http://kms.example", map[string]string{"http_proxy": web, "HTTP_PROXY": secure})
	add("http://kms.example", map[string]string{"http_proxy": "", "HTTP_PROXY": secure})
	add("https://kms.example", map[string]string{"https_proxy": web, "HTTPS_PROXY": secure})
	add("https://kms.example", map[string]string{"Https_Proxy": web})
	add("https://kms.example", map[string]string{"ALL_PROXY": web, "all_proxy": web})
	add("https://kms.example", map[string]string{"https_proxy": web, "no_proxy": "kms.example", "NO_PROXY": "x"})
	add("https://kms.example", map[string]string{"https_proxy": web, "no_proxy": "x", "NO_PROXY": "kms.example"})
	add("https://kms.example", map[string]string{"https_proxy": web, "no_proxy": "", "NO_PROXY": "kms.example"})

	// How an address of a proxy is read.
	for _, proxy := range []string{
		"proxy.example:3128", "proxy.example", "10.0.0.1:3128", "http://proxy.example", "https://proxy.example:3128",
		"http://user:pass%20word@proxy.example:3128", "user:word@proxy.example:3128", "http://[fd00::1]:3128",
		"http://proxy.example:3128/path", "HTTP://Proxy.example:3128", "socks5://proxy.example:1080",
		"socks5h://user:word@proxy.example:1080",
	} {
		add("https://kms.example", map[string]string{"HTTPS_PROXY": proxy})
	}

	// A CGI script.
	cgi := func(env map[string]string) map[string]string { env["REQUEST_METHOD"] = "GET"; return env }
	add("http://kms.example", cgi(map[string]string{"HTTP_PROXY": web}))
	add("http://kms.example", cgi(map[string]string{"http_proxy": web}))
	add("http://kms.example", cgi(map[string]string{"HTTP_PROXY": web, "NO_PROXY": "*"}))
	add("http://127.0.0.1:8200", cgi(map[string]string{"HTTP_PROXY": web}))
	add("http://kms.example", cgi(map[string]string{"HTTPS_PROXY": web}))
	add("https://kms.example", cgi(map[string]string{"HTTP_PROXY": web, "HTTPS_PROXY": secure}))
	add("http://kms.example", map[string]string{"HTTP_PROXY": web, "REQUEST_METHOD": ""})

	// Names.
	except("kms.example", "https://kms.example", "https://kms.example:8200", "https://KMS.example",
		"https://a.kms.example", "https://b.a.kms.example:1", "https://akms.example", "https://kms.example.org",
		"https://kms.example.", "https://example")
	except(".kms.example", "https://kms.example", "https://a.kms.example", "https://akms.example")
	except("*.kms.example", "https://kms.example", "https://a.kms.example", "https://akms.example")
	except("*kms.example", "https://akms.example", "https://kms.example")
	except("KMS.Example", "https://kms.example")
	except("kms.example.", "https://kms.example", "https://kms.example.")
	except("https://kms.example", "https://kms.example")
	except("kms", "http://kms:8200", "http://kms.ns.svc:8200")
	except("svc,cluster.local", "https://vault.vault.svc:8200", "https://vault.vault.svc.cluster.local:8200")
	except(".", "https://kms.example", "https://kms.example.")

	// Ports.
	except("kms.example:8200", "https://kms.example:8200", "https://kms.example", "https://a.kms.example:8200",
		"https://kms.example:82")
	except(".kms.example:443", "https://a.kms.example", "https://a.kms.example:8443", "https://kms.example")
	except("kms.example:80", "http://kms.example", "https://kms.example")
	except("kms.example:", "https://kms.example", "https://kms.example:8200")
	except("kms.example:https", "https://kms.example")
	except(":8200", "https://kms.example:8200")
	except("*:8200", "https://kms.example:8200")
	except("kms.example:1:2", "https://kms.example:1", "https://kms.example:2")

	// Addresses.
	except("10.1.2.3", "https://10.1.2.3", "https://10.1.2.3:8200", "https://10.1.2.30", "https://a.10.1.2.3.example",
		"http://[::ffff:10.1.2.3]")
	except("10.1.2.3:8200", "https://10.1.2.3:8200", "https://10.1.2.3")
	except("10.1.2", "https://10.1.2.3")
	except("010.1.2.3", "https://10.1.2.3")
	except("::ffff:10.1.2.3", "https://10.1.2.3", "http://[::ffff:10.1.2.3]")
	except("fd00::1", "https://[fd00::1]", "https://[fd00::1]:8200", "https://[fd00::2]", "https://[FD00:0::1]")
	except("[fd00::1]", "https://[fd00::1]", "https://[fd00::1]:8200")
	except("[fd00::1]:8200", "https://[fd00::1]:8200", "https://[fd00::1]")
	except("[fd00::1]8200", "https://[fd00::1]:8200")
	except("[10.1.2.3]:8200", "https://10.1.2.3:8200")
	except("fe80::1%eth0", "https://[fe80::1]")

	// Ranges.
	except("10.0.0.0/8", "https://10.1.2.3:8200", "https://11.1.2.3", "https://kms.example", "http://[::ffff:10.1.2.3]")
	except("10.1.2.3/16", "https://10.1.255.255", "https://10.2.0.1")
	except("10.1.2.3/32", "https://10.1.2.3", "https://10.1.2.4")
	except("0.0.0.0/0", "https://203.0.113.9", "https://[fd00::1]", "https://kms.example")
	except("::/0", "https://203.0.113.9", "https://[fd00::1]", "https://kms.example")
	except("fd00::/8", "https://[fd12::1]", "https://[fe00::1]", "https://10.0.0.1")
	except("::ffff:10.0.0.0/104", "https://10.1.2.3", "https://11.1.2.3")
	except("::ffff:10.0.0.0/90", "https://10.1.2.3", "https://11.1.2.3")
	except("10.0.0.0/08", "https://10.1.2.3")
	except("10.0.0.0/+8", "https://10.1.2.3")
	except("10.0.0.0/33", "https://10.0.0.0")
	except("10.0.0.0/", "https://10.0.0.0")
	except("10.0.0.0/x", "https://10.0.0.0")
	except("10.0.0.0/8:8200", "https://10.1.2.3:8200")
	except("kms.example/8", "https://kms.example")

	// Everything, lists and blanks.
	except("*", "https://kms.example", "http://203.0.113.9", "https://[fd00::1]")
	except("other, * ", "https://kms.example")
	except("*,other", "https://10.1.2.3")
	except("**", "https://kms.example")
	except(" , ,kms.example ,", "https://kms.example", "https://other.example")
	except("a.example b.example", "https://a.example", "https://b.example")
	except("a.example;b.example", "https://a.example")
	except("10.0.0.0/8,192.168.0.0/16,.svc,.cluster.local,kms.example",
		"https://192.168.3.4:6443", "https://vault.ns.svc:8200", "https://kms.example", "https://vault.azure.net")

	// International names.
	except("bücher.example", "https://bücher.example", "https://xn--bcher-kva.example", "https://a.bücher.example:8200",
		"https://bucher.example")
	except("xn--bcher-kva.example", "https://bücher.example")
	except("*.BÜCHER.example:8200", "https://a.bücher.example:8200", "https://a.bücher.example", "https://bücher.example:8200")
	except("kms.straße.example", "https://kms.xn--strae-oqa.example", "https://kms.strasse.example")
	return all
}
