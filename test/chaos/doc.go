// Package chaos does to a whole cluster what happens to clusters, by a schedule that a
// seed makes, while calls and events come in steadily, and checks what must hold all the
// same: see [census].
package chaos
