// Command image is a function that runs in a container image of its own: FROM scratch,
// with this program and nothing else. It tells what it sees there.
package main

import (
	"context"
	"os"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
)

type answer struct {
	Hello string   `json:"hello"`
	Files []string `json:"files"`
}

func main() { dayfly.Start(look) }

// look lists the root folder of the image.
func look(_ context.Context, in struct {
	Name string `json:"name"`
},
) (answer, error) {
	entries, err := os.ReadDir("/")
	if err != nil {
		return answer{}, err
	}
	a := answer{Hello: in.Name}
	for _, e := range entries {
		a.Files = append(a.Files, e.Name())
	}
	return a, nil
}
