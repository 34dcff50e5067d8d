package events

// Sweep lets a test sweep at a moment of its choice.
var Sweep = (*Worker).sweep
