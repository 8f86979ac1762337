// A CardDAV client over go-webdav, for the tests: it finds the address book, and then does what each argument says.
//
//	godav URL USER PASSWORD [sync=TOKEN | put=NAME=FILE]...
//
// Prints an object of JSON for each: what changed since the token (all, without one), with the cards' names and the
// next token; or the ETag of what was put.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"

	"github.com/emersion/go-vcard"
	"github.com/emersion/go-webdav"
	"github.com/emersion/go-webdav/carddav"
)

func main() {
	ctx := context.Background()
	http := webdav.HTTPClientWithBasicAuth(nil, os.Args[2], os.Args[3])
	client := must(carddav.NewClient(http, os.Args[1]))
	principal := must(client.FindCurrentUserPrincipal(ctx))
	home := must(client.FindAddressBookHomeSet(ctx, principal))
	book := must(client.FindAddressBooks(ctx, home))[0].Path
	out := json.NewEncoder(os.Stdout)
	for _, argument := range os.Args[4:] {
		verb, rest, _ := strings.Cut(argument, "=")
		if verb == "put" {
			name, path, _ := strings.Cut(rest, "=")
			card := must(vcard.NewDecoder(must(os.Open(path))).Decode())
			check(out.Encode(must(client.PutAddressObject(ctx, book+name, card)).ETag))
			continue
		}
		query := &carddav.SyncQuery{SyncToken: rest}
		found := must(client.SyncCollection(ctx, book, query))
		changed := map[string]string{}
		for _, each := range found.Updated {
			changed[each.Path] = each.ETag
		}
		names := map[string]string{}
		if len(changed) > 0 {
			get := &carddav.AddressBookMultiGet{DataRequest: carddav.AddressDataRequest{AllProp: true}}
			for path := range changed {
				get.Paths = append(get.Paths, path)
			}
			for _, each := range must(client.MultiGetAddressBook(ctx, book, get)) {
				names[each.Path] = each.Card.PreferredValue(vcard.FieldFormattedName)
			}
		}
		check(out.Encode(map[string]any{"token": found.SyncToken, "names": names, "removed": found.Deleted}))
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
