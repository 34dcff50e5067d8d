// Package dayfly is what a Go function imports. It asks the Runtime API for
// events, hands them to a handler and posts what it returns:
//
//	func main() {
//		dayfly.Start(func(ctx context.Context, in Order) (Receipt, error) { … })
//	}
//
// A function that answers HTTP requests takes a [HTTPRequest] and returns a
// [HTTPResponse], or hands an [net/http.Handler] to [StartHTTP].
//
// What a handler may ask of the platform: the [Invocation] of its context, [Put] for
// output files, [Config] and [Secret], a [Logger] with levels, and [Invoke],
// [InvokeAsync] and [Publish] to reach other functions. The package dayflytest runs
// handlers in tests.
//
// The package needs nothing but the standard library.
package dayfly
