// Prints, as JSON, how Vault's own client reads a duration: the table that `kms-core` is compared with. `cargo xtask
// codegen` writes it to cases.json.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
)

// A text, and its duration in nanoseconds. Absent: the text is refused.
type Case struct {
	Text        string `json:"text"`
	Nanoseconds *int64 `json:"ns"`
}

func main() {
	fmt.Println("[")
	for at, text := range texts {
		question := Case{Text: text}
		if duration, err := parseutil.ParseDurationSecond(text); err == nil {
			nanoseconds := int64(duration)
			question.Nanoseconds = &nanoseconds
		}
		line, err := json.Marshal(question)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		comma := ","
		if at == len(texts)-1 {
			comma = ""
		}
		fmt.Printf("%s%s\n", line, comma)
	}
	fmt.Println("]")
}

var texts = []string{
	// Numbers of seconds.
	"0", "1", "60", "060", "+60", "+0", "-0", "9223372036",
	// Each unit.
	"1ns", "1us", "1µs", "1μs", "1ms", "1s", "1m", "1h", "1d", "2d", "0d", "1.5d", "1d1h", "1w", "1y",
	// Compound, in any order, and repeated.
	"1m30s", "1h30m", "1h2m3s4ms5us6ns", "30s1m", "1s1s", "0h0m0s", "3h0m", "1m0.5s",
	// Fractions.
	"1.5s", "0.5s", ".5s", "1.s", "1.5h", "0.1ms", "1.000000001s", "0.0000000001s", "1.9ns", "0.999999999999h",
	"0.3333333333333333333h", "0.100000000000000000000h", "1.5ms2.5us", "9007199254.740993ms",
	"0.9223372036854775807h", "0.92233720368547758079h", "5.0s",
	// Signs.
	"+5s", "-5s", "-1", "-1.5h", "+.5s", "-0s", "--1s", "+-1s", "1s-1s", "+", "-",
	// Zero with units.
	"0s", "0.0s", "00s", "+0s",
	// The largest values.
	"9223372036854775807ns", "9223372036854775808ns", "9223372036.854775807s", "9223372036.854775808s",
	"2562047h47m16.854775807s", "2562048h", "106751d", "18446744073709551615h", "99999999999999999999s",
	"9223372036854775.807us", "1.99999999999999999999999s",
	// Refused.
	"abc", "5x", "s", "1m30", "1.5", ".", ".s", "1..5s", "1.5.s", "1 s", " 1s", "1s ", "1h 30m", "1S", "1H", "1M", "1MS",
	"1sec", "5 minutes", "1e3s", "0x10s", "1_000s", "1,5s", "٣s", "d", "-d", "1.d", "m1", "∞", "1µ", "1ss", "1hm",
	"NaN", "null", "10s;", "1s\n",
}
