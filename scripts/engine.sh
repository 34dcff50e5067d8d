# shellcheck shell=bash
# Functions about the Docker Engine of this machine. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/.dayfly
# What a run of ours started: "<pid|systemd> <owner>", where the owner is the
# process that must stop it, or 0 when it is to stay.
ENGINE_FILE=$STATE/engine
DOCKER_RUN=/var/run

# A login shell got by `su` or sudo may lack the folders of root's programs.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '==> %s\n' "$*" >&2; }

fail() {
	printf 'error: %s\n' "$1" >&2
	shift
	local line
	for line in "$@"; do printf '       %s\n' "$line" >&2; done
	exit 1
}

# engine_socket prints the path of the socket that clients will use.
engine_socket() {
	case ${DOCKER_HOST:-} in
	'') echo "$DOCKER_RUN/docker.sock" ;;
	unix://*) echo "${DOCKER_HOST#unix://}" ;;
	*) fail "DOCKER_HOST is $DOCKER_HOST, which is not on this machine" \
		"Dayfly mounts folders into its containers and needs a local Docker Engine." \
		"Unset DOCKER_HOST, or set it to unix:///path/of/docker.sock." ;;
	esac
}

# engine_ping asks the engine itself, because a client may be installed alone.
# It returns 0 when the engine answers, 2 when this user may not ask, 1 otherwise.
# Perl with its socket modules is part of every Debian (perl-base).
engine_ping() {
	perl -MIO::Socket::UNIX -e '
		alarm 5;
		my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit($!{EACCES} ? 2 : 1);
		print $s "GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n";
		$s->flush;
		my $status = <$s> // "";
		exit($status =~ m{^HTTP/1\.[01] 200 } ? 0 : 1);
	' "$1" 2>/dev/null || {
		local code=$?
		((code == 2)) && return 2
		return 1
	}
}

# is_running PID NAME: is that process alive, and still the program we mean?
# Process IDs are used again, so the number alone proves nothing.
is_running() {
	[[ $1 =~ ^[0-9]+$ ]] && [[ $(cat "/proc/$1/comm" 2>/dev/null) == "$2" ]]
}

has_systemd() { [[ -d /run/systemd/system ]]; }

# stop_engine OWNER: stop the engine that OWNER started; "any" stops it whoever
# started it here. An engine that was not started by a run of ours is left alone.
stop_engine() {
	local engine owner i
	[[ -r $ENGINE_FILE ]] || return 0
	read -r engine owner <"$ENGINE_FILE" || return 0
	[[ $1 == any || $1 == "$owner" ]] || return 0
	if [[ $engine == systemd ]]; then
		say "stopping docker.service, which this run started"
		systemctl stop docker.socket docker.service || true
	elif is_running "$engine" dockerd; then
		say "stopping dockerd (pid $engine), which this run started"
		kill -TERM "$engine" 2>/dev/null || true
		for ((i = 0; i < 300; i++)); do
			is_running "$engine" dockerd || break
			sleep 0.1 || true # a signal may end it
		done
		if is_running "$engine" dockerd; then
			say "dockerd did not stop within 30 s: killing it"
			kill -KILL "$engine" 2>/dev/null || true
		fi
	fi
	rm -f "$ENGINE_FILE"
}
