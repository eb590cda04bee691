// Go's client as it is by default: a sized body, and one from a reader of unknown length, which goes out in chunks.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	url, key, body := os.Args[1], os.Args[2], os.Args[3]
	for _, reader := range []io.Reader{strings.NewReader(body), io.MultiReader(strings.NewReader(body))} {
		request, err := http.NewRequest("POST", url, reader)
		if err != nil {
			panic(err)
		}
		request.Header.Set("authorization", "Bearer "+key)
		request.Header.Set("content-type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			panic(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		fmt.Println(answer.StatusCode, string(text))
	}
}
