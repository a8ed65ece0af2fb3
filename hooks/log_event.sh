#!/bin/sh
umask 077
d=${1:-${ARSENALE_HOME:-${HOME:-/}/.arsenale}/spool}
[ -d "$d" ] || mkdir -p "$d" 2>/dev/null
cat 2>/dev/null >>"$d/$$.$PPID.json" || cat >/dev/null 2>&1
exit 0
