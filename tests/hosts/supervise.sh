#!/bin/sh
# Runs one host until it powers off: supervise.sh CGROUP OVERLAY-OPTIONS ROOT COMMAND...
# It has its own mount namespace, so what is mounted here is gone when the last process of the host is.
set -eu
echo $$ > "$1/cgroup.procs"
mkdir -p /run/systemd/nspawn
mount -t tmpfs chromad-test /run/systemd/nspawn
mount -t overlay -o "$2" chromad-test "$3"
shift 3
# systemd-nspawn leaves with 133 when the host has asked for a reboot.
while rc=0; "$@" || rc=$?; [ "$rc" -eq 133 ]; do :; done
exit "$rc"
