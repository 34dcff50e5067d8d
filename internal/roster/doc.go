// Package roster knows who is in the cluster: the nodes by the words that they publish,
// and the processes by what they answer when they are asked.
package roster
