#!/usr/bin/env bash
# Starts Ray on a worker that is a machine of one's own, and tidies up there once the head is gone.
#
#   bash ~/mwray/launch/clusters/join.sh HEAD_IP [further options of `ray start`]
#
# `ray down` stops Ray on the head only. A worker's raylet notices within a minute and ends, but leaves its log monitor and
# its agents running (seen in Ray 2.60): where machines are not thrown away, somebody has to stop those.
set -euo pipefail
head=$1
shift
ulimit -n "$(ulimit -Hn)"
ray start --address="$head:6379" --disable-usage-stats "$@"

raylet=$(pgrep -u "$(id -u)" -n -x raylet)
# After the raylet's end it waits a little: `ray up` of a running cluster stops Ray and starts it again within seconds, and
# what it has started must not be stopped.
tidy="while kill -0 $raylet; do sleep 2; done; sleep 15; pgrep -u $(id -u) -x raylet || ray stop --force"
setsid nohup bash -c "$tidy" >/dev/null 2>&1 </dev/null &
