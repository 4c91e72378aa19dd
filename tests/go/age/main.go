// Reads and writes archives with Go's own age and tar, for the tests of kms-escrow.
//
//	age keygen                     prints an identity and its recipient, each on a line
//	age plugin-keygen              prints those of the plugin that this program is under the name age-plugin-kmstest
//	age pin-keygen                 the same, for an identity with a PIN
//	age read IDENTITIES < FILE     prints each file of the tar as a line of JSON: {"name": …, "mode": …, "data": base64}
//	age text IDENTITIES < FILE     prints a file that is not a tar
//	age write RECIPIENTS > FILE    encrypts a tar of the lines on standard input, which have the same form
package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

// A file of the tar.
type File struct {
	Name string `json:"name"`
	Mode int64  `json:"mode"`
	Data []byte `json:"data"`
}

// The name of the plugin.
const pluginName = "kmstest"

// How an identity of the plugin begins that is used only after a confirmation and with the PIN 314159.
const withPIN = "pin:"

func main() {
	if filepath.Base(os.Args[0]) == "age-plugin-"+pluginName {
		os.Exit(runPlugin())
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A plugin whose recipients and identities have those of X25519 in them, as text.
func runPlugin() int {
	p, err := plugin.New(pluginName)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p.RegisterFlags(nil)
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return age.ParseX25519Recipient(string(data)) })
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		if err := p.DisplayMessage("touch the key"); err != nil {
			return nil, err
		}
		if identity, asks := strings.CutPrefix(string(data), withPIN); asks {
			return unlock(p, identity)
		}
		return age.ParseX25519Identity(string(data))
	})
	flag.Parse()
	return p.Main()
}

// Asks as the plugins of hardware keys do.
func unlock(p *plugin.Plugin, identity string) (age.Identity, error) {
	if yes, err := p.Confirm("use slot 1?", "use it", "skip it"); err != nil || !yes {
		return nil, errors.New("the slot is not to be used")
	}
	if pin, err := p.RequestValue("PIN of slot 1", true); err != nil || pin != "314159" {
		return nil, errors.New("the PIN is wrong")
	}
	return age.ParseX25519Identity(identity)
}

func run(args []string) error {
	switch {
	case len(args) == 1 && (args[0] == "plugin-keygen" || args[0] == "pin-keygen"):
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return err
		}
		text := identity.String()
		if args[0] == "pin-keygen" {
			text = withPIN + text
		}
		fmt.Println(plugin.EncodeIdentity(pluginName, []byte(text)))
		fmt.Println(plugin.EncodeRecipient(pluginName, []byte(identity.Recipient().String())))
		return nil
	case len(args) == 1 && args[0] == "keygen":
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return err
		}
		fmt.Printf("%s\n%s\n", identity, identity.Recipient())
		return nil
	case len(args) == 2 && args[0] == "read":
		return read(args[1], os.Stdin, os.Stdout)
	case len(args) == 2 && args[0] == "text":
		plain, err := decrypt(args[1], os.Stdin)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, plain)
		return err
	case len(args) == 2 && args[0] == "write":
		return write(args[1], os.Stdin, os.Stdout)
	}
	return errors.New("usage: age keygen | plugin-keygen | pin-keygen | read IDENTITIES | text IDENTITIES | write RECIPIENTS")
}

func decrypt(path string, in io.Reader) (io.Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	identities, err := age.ParseIdentities(file)
	if err != nil {
		return nil, err
	}
	return age.Decrypt(in, identities...)
}

func read(path string, in io.Reader, out io.Writer) error {
	plain, err := decrypt(path, in)
	if err != nil {
		return err
	}
	files, lines := tar.NewReader(plain), json.NewEncoder(out)
	for {
		header, err := files.Next()
		if err == io.EOF {
			// What follows the tar shows whether the archive was cut off.
			_, err = io.Copy(io.Discard, plain)
			return err
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		if err := lines.Encode(File{header.Name, header.Mode, data}); err != nil {
			return err
		}
	}
}

func write(path string, in io.Reader, out io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	recipients, err := age.ParseRecipients(file)
	if err != nil {
		return err
	}
	plain, err := age.Encrypt(out, recipients...)
	if err != nil {
		return err
	}
	files, lines := tar.NewWriter(plain), json.NewDecoder(in)
	for {
		var file File
		if err := lines.Decode(&file); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		header := &tar.Header{Name: file.Name, Mode: file.Mode, Size: int64(len(file.Data))}
		if err := files.WriteHeader(header); err != nil {
			return err
		}
		if _, err := files.Write(file.Data); err != nil {
			return err
		}
	}
	if err := files.Close(); err != nil {
		return err
	}
	return plain.Close()
}
