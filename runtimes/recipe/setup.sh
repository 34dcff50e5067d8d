#!/bin/sh
# Runs before the packages are unpacked. $1 is the new root.
# One /usr for both, as on an installed Debian: without it #!/usr/bin/bash fails.
set -eu
for dir in bin sbin lib lib64; do
	mkdir -p "$1/usr/$dir"
	ln -s "usr/$dir" "$1/$dir"
done
