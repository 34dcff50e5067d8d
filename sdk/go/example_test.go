package dayfly_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dayfly "github.com/dayfly-run/dayfly/sdk/go"
	"github.com/dayfly-run/dayfly/sdk/go/dayflytest"
)

// exampleTest stands for the *testing.T of a test in the examples.
type exampleTest struct {
	testing.TB

	cleanups []func()
}

func (*exampleTest) Helper()            {}
func (e *exampleTest) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }
func (*exampleTest) Fatal(args ...any)  { fmt.Println(args...) }
func (*exampleTest) Error(args ...any)  { fmt.Println(args...) }

func (e *exampleTest) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}

type Order struct {
	Item  string
	Count int
}

type Receipt struct{ Total int }

func handle(ctx context.Context, in Order) (Receipt, error) {
	price, err := dayfly.Invoke[string, int](ctx, "price", in.Item)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{price * in.Count}, dayfly.Publish(ctx, "orders.sold", in)
}

func ExampleInvoke() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	p.Handle("price", func(json.RawMessage) (any, error) { return 3, nil })
	got, err := handle(p.Context(), Order{Item: "pear", Count: 2})
	fmt.Println(got.Total, err)
	fmt.Println(p.Published())
	// Output:
	// 6 <nil>
	// [{orders.sold {"Item":"pear","Count":2}}]
}

func ExampleError() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	p.Handle("price", func(json.RawMessage) (any, error) { return nil, errors.New("no such item") })
	_, err := handle(p.Context(), Order{Item: "sun"})
	var failed *dayfly.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Code, failed.Message, failed.Retryable)
	}
	// Output: function.error no such item false
}

func ExampleInvokeAsync() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	p.Handle("mail", func(json.RawMessage) (any, error) { return nil, nil })
	_, err := dayfly.InvokeAsync(p.Context(), "mail", "hello", "order-7")
	call := p.Calls()[0]
	fmt.Println(call.Ref, call.Event, call.Key, err)
	// Output: mail "hello" order-7 <nil>
}

func ExampleConfigValue() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	p.SetConfig(map[string]string{"greeting": "Hello"})
	ctx := p.Context()
	fmt.Println(dayfly.ConfigValue(ctx, "greeting", "?"), dayfly.ConfigValue(ctx, "colour", "green"))
	// Output: Hello green
}

func ExampleSecret() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	p.SetSecret("API_TOKEN", "s3cr3t")
	token, err := dayfly.Secret(p.Context(), "API_TOKEN")
	fmt.Println(len(token), err)
	// Output: 6 <nil>
}

func ExamplePut() {
	t := &exampleTest{}
	defer t.end()
	p := dayflytest.New(t)
	err := dayfly.Put(p.Context(), "reports/today.csv", strings.NewReader("item,count\n"))
	f, openErr := os.Open(filepath.Join(p.Output, "reports/today.csv"))
	if openErr != nil {
		fmt.Println(openErr)
		return
	}
	defer f.Close()
	text, _ := io.ReadAll(f)
	fmt.Printf("%s%v\n", text, err)
	// Output:
	// item,count
	// <nil>
}
