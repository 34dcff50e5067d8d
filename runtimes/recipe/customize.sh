#!/bin/sh
# Runs after the packages are unpacked. $1 is the new root.
# No package's own scripts have run, so this does by hand what functions need.
set -eu
cd "$1"

# Users: the platform runs everything as 65532.
cat >etc/passwd <<'END'
root:x:0:0:root:/root:/usr/sbin/nologin
function:x:65532:65532:function:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
cat >etc/group <<'END'
root:x:0:
function:x:65532:
nogroup:x:65534:
END
cat >etc/nsswitch.conf <<'END'
passwd: files
group: files
hosts: files dns
services: files
protocols: files
END
echo '127.0.0.1 localhost' >etc/hosts
echo function >etc/hostname
: >etc/resolv.conf
rm -f etc/localtime
ln -s /usr/share/zoneinfo/UTC etc/localtime
echo UTC >etc/timezone

# Certificates, as update-ca-certificates would leave them.
mkdir -p etc/ssl/certs
find usr/share/ca-certificates -name '*.crt' | LC_ALL=C sort | while read -r cert; do
	cat "$cert"
	echo
done >etc/ssl/certs/ca-certificates.crt
test -s etc/ssl/certs/ca-certificates.crt

# Links that the packages' scripts would make.
[ ! -e usr/bin/mawk ] || ln -sf mawk usr/bin/awk
[ ! -e usr/bin/which.debianutils ] || ln -sf which.debianutils usr/bin/which
if [ -e usr/bin/python3 ]; then
	ln -sf python3 usr/bin/python
	# The root is read-only later. Unchecked: nobody changes the sources, so
	# Python need not look at them at every import.
	chroot . /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3*
fi
if [ -e usr/bin/node ]; then
	rm -rf usr/share/nodejs/@types usr/share/nodejs/corepack usr/share/nodejs/npm
	# Functions find the SDK here that have none of their own: Node.js looks in the
	# node_modules of every folder above them, and a link costs no time, as a hook would.
	mkdir node_modules
	ln -s /opt/dayfly/sdk/node node_modules/dayfly
fi

# Nobody reads manuals or installs packages in here.
rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian \
	usr/share/bash-completion usr/share/doc-base usr/share/bug usr/share/menu usr/share/pixmaps \
	usr/share/applications usr/share/debconf usr/share/perl5 usr/share/zoneinfo/right \
	usr/share/zoneinfo/posix usr/share/polkit-1 usr/share/common-licenses usr/lib/*/gconv \
	etc/apt etc/dpkg etc/cron.daily etc/logrotate.d etc/update-motd.d etc/debconf.conf \
	usr/lib/apt usr/lib/dpkg usr/share/dpkg var/lib/apt var/lib/dpkg var/cache var/log/* boot home
rm -f usr/bin/dpkg* usr/bin/debconf* usr/sbin/dpkg* usr/bin/update-alternatives \
	usr/bin/py3clean usr/bin/py3compile usr/bin/py3versions etc/ld.so.cache
chroot . /sbin/ldconfig
rm -rf var/cache

# Mount points. /dev is left alone: while this runs it shows the host's.
mkdir -p var/task opt/dayfly run/dayfly mnt/output tmp proc sys var/tmp usr/local/go
rm -rf tmp/*
chmod 0644 etc/resolv.conf etc/hostname etc/hosts
chmod 0755 var/task opt/dayfly run/dayfly
# runc gives a tmpfs the mode of the folder that it covers.
chmod 1777 tmp var/tmp mnt/output
find . -xdev -perm /6000 ! -type l -exec chmod ug-s {} +
