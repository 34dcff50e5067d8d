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
// The package needs nothing but the standard library.
package dayfly
