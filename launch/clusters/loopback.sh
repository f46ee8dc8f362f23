#!/usr/bin/env bash
# Moves the port of Ray's clients (10001) on the head to loopback; run there after `ray start --head`.
#
#   bash ~/mwray/launch/clusters/loopback.sh
#
# Ray 2.60 opens it on the head's own address and has no setting for that. Nobody needs it from outside: the search runs on
# the head itself. Who wants it makes a tunnel: ssh -L 10001:127.0.0.1:10001 USER@HEAD, then ray.init("ray://localhost:10001").
set -euo pipefail
pid=$(pgrep -u "$(id -u)" -n -f -- '-m ray\.util\.client\.server .*--mode=proxy') || exit 0 # none: nothing is open
mapfile -d '' -t words <"/proc/$pid/cmdline"
kill "$pid"
for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
setsid nohup "${words[@]/#--host=*/--host=127.0.0.1}" >/tmp/ray/session_latest/logs/ray_client_server_loopback.log 2>&1 </dev/null &
