#!/bin/sh
# Tells Ray that this machine is a spot machine about to be taken away, so that trainings leave it and none is sent to it;
# run on a worker after `ray start`. It stays in the background: the newest copy on a machine, the others end.
#
#   sh ~/mwray/launch/clusters/spot.sh aws|gcp
#
# Ray 2.60 asks no cloud by itself. Its log is beside Ray's, or in $MWRAY_SPOT_LOG. MWRAY_METADATA is where to ask instead of
# the provider's own address, MWRAY_SPOT_PAUSE seconds between two questions.
set -u
provider=${1:-}
case $provider in
  aws) address=${MWRAY_METADATA:-http://169.254.169.254} left=115 ;;        # two minutes' notice, less one pause
  gcp) address=${MWRAY_METADATA:-http://metadata.google.internal} left=25 ;; # half a minute's
  *) echo "spot.sh: give the provider, aws or gcp; got '$provider'" >&2; exit 2 ;;
esac
newest=$HOME/.mwray-spot # the number of the process that watches

if [ "${2:-}" != watch ]; then # leave the ssh session: it ends, and takes along what still belongs to it
  log=${MWRAY_SPOT_LOG:-/tmp/ray/session_latest/logs/mwray_spot.log}
  [ -d "${log%/*}" ] || log=/tmp/mwray_spot.log
  setsid nohup sh "$0" "$provider" watch >>"$log" 2>&1 </dev/null &
  exit 0
fi

say() { echo "$(date '+%Y-%m-%d %H:%M:%S') $*"; }

ask() { curl --noproxy '*' --silent --fail --max-time 2 "$@"; } # fails on 404, which is what AWS says as long as all is well

taken() { # whether the provider has said that it takes this machine
  if [ "$provider" = aws ]; then
    # A new key each time: nothing to keep, and it is a question to the machine's own host.
    key=$(ask --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$address/latest/api/token") &&
      action=$(ask --header "X-aws-ec2-metadata-token: $key" "$address/latest/meta-data/spot/instance-action") &&
      [ -n "$action" ]
  else
    [ "$(ask --header 'Metadata-Flavor: Google' "$address/computeMetadata/v1/instance/preempted")" = TRUE ]
  fi
}

setting() { tr '\0' '\n' <"/proc/$raylet/cmdline" | sed -n "s/^--$1=//p" | head -n 1; } # of this node's raylet

drain() { # node and head by the raylet's own words: nothing else here knows which of the head's nodes this is
  raylet=$(pgrep -u "$(id -u)" -n -x raylet) || { say "no raylet runs here"; return 1; }
  timeout 15 ray drain-node --address="$(setting gcs-address)" --node-id="$(setting node_id)" \
    --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message="$provider takes this spot machine back" \
    --deadline-remaining-seconds="$left"
}

echo $$ >"$newest"
say "watches $address for $provider"
asked=
while sleep "${MWRAY_SPOT_PAUSE:-5}"; do
  [ "$(cat "$newest" 2>/dev/null)" = $$ ] || exit 0
  taken || continue
  say "$provider takes this machine back"
  if drain; then
    say "Ray has been told"
    exit 0
  fi
  # The next best: trainings leave when their processes get SIGTERM. Once, since they may start again right here. Only
  # these: Ray's agents are called ray:: as well, and a node without them ends.
  [ -n "$asked" ] || pkill -TERM -u "$(id -u)" -f '^ray::(ResourceTrainable|RayTrainWorker|Host)'
  asked=yes
  say "Ray could not be told; tries again"
done
