// The Go client that Rook uses, in the very calls that Rook makes.
//
// client read NAME | write NAME PAYLOAD | delete NAME: as client.py.
// Environment: KP_TOKEN_URL, KP_BASE, KP_INSTANCE, KP_API_KEY, SSL_CERT_FILE.
package main

import (
	"context"
	"fmt"
	"os"

	kp "github.com/IBM/keyprotect-go-client"
)

func main() {
	config := kp.ClientConfig{
		BaseURL:    os.Getenv("KP_BASE"),
		APIKey:     os.Getenv("KP_API_KEY"),
		TokenURL:   os.Getenv("KP_TOKEN_URL"),
		InstanceID: os.Getenv("KP_INSTANCE"),
	}
	client, err := kp.NewWithLogger(config, kp.DefaultTransport(), nil)
	check(err)
	ctx, name := context.Background(), os.Args[2]
	switch os.Args[1] {
	case "write":
		key, err := client.CreateImportedKeyWithAliases(ctx, name, nil, os.Args[3], "", "", true, []string{name})
		check(err)
		fmt.Println(key.ID)
	case "read":
		key, err := client.GetKey(ctx, name)
		check(err)
		fmt.Println(key.Payload)
	case "delete":
		key, err := client.GetKey(ctx, name)
		check(err)
		_, err = client.DeleteKey(ctx, key.ID, kp.ReturnRepresentation, kp.ForceOpt{Force: true})
		check(err)
		fmt.Println(key.ID)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}
