#!/usr/bin/env bash
# Restarts the nodes of a cluster one after the other; clients that retry notice nothing.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: rolling-restart.sh [--server LIST] [--unit NAME] [--admin-port PORT] [--timeout SECONDS] ssh   ID=HOST...
       rolling-restart.sh [--server LIST]                                   [--timeout SECONDS] local ID=FOLDER...

ssh:   each HOST runs the systemd unit NAME (lance), its admin HTTP on PORT (9644) of its loopback.
local: each FOLDER holds node.toml, a file `pid` and `log`; the program is $LANCE (lance). The secret and other LANCE_ variables
       are those of the caller.
LIST is what `lnc --server` takes, of all nodes (LNC_SERVER).

For each node: all others must serve and hold full copies; the node is put in maintenance, restarted, and waited for until it
is ready and counts again in every partition it holds; then it leads again. While a node of an older version is there it is
drained instead. A node that was in maintenance before stays so. The first thing that is not as it should be stops the script;
`lnc cluster resume ID` lets the node lead again that it was at.

Example: rolling-restart.sh --server lance-0:9000,lance-1:9000,lance-2:9000 ssh 1=lance-0 2=lance-1 3=lance-2
TEXT
}

unit=lance admin_port=9644 timeout=120
while [[ ${1:-} == --* ]]; do
  case $1 in
    --server) export LNC_SERVER=$2 ;;
    --unit) unit=$2 ;;
    --admin-port) admin_port=$2 ;;
    --timeout) timeout=$2 ;;
    --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift 2
done
mode=${1:-}
if [[ $mode != ssh && $mode != local ]] || (($# < 2)); then
  usage >&2
  exit 2
fi
shift
lnc=${LNC:-lnc} lance=${LANCE:-lance}

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
fail() { say "stopped: $*" >&2; exit 1; }

# Waits until a command succeeds.
until_true() {
  local what=$1 deadline=$((SECONDS + timeout))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || fail "not within $timeout s: $what"
    sleep 0.5
  done
}

# Every node serves, every partition has a leader, and every copy counts.
is_whole() {
  "$lnc" cluster status --output json 2>/dev/null | python3 -c '
import json, sys
status = json.load(sys.stdin)
nodes = all(node["state"] in ("serving", "maintenance") for node in status["nodes"])
copies = all(one["leader"] and set(one["replicas"]) == set(one["in_quorum"]) for one in status["partitions"])
sys.exit(not (nodes and copies))' 2>/dev/null
}

is_in_maintenance() {
  "$lnc" cluster status --output json | python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
sys.exit(not any(node["id"] == int(sys.argv[1]) and node.get("maintenance") for node in nodes))' "$1"
}

# Empties a node of leaderships; answers whether it has to be resumed afterwards.
empty() {
  is_in_maintenance "$1" && return 1
  "$lnc" cluster maintenance "$1" --wait "${timeout}s" >/dev/null && return 0
  # The order may stand although some leaderships did not move in time.
  is_in_maintenance "$1" && return 0
  say "node $1: no maintenance mode, as with a version before it; draining"
  "$lnc" cluster drain "$1" --wait "${timeout}s" >/dev/null || fail "node $1 does not drain"
  return 1
}

# The admin address of a local node, as its configuration says.
local_admin() {
  "$lance" --check-config --config "$1/node.toml" 2>/dev/null |
    awk '/^\[/ { section = $1 } section == "[admin]" && $1 == "bind" { gsub(/"/, "", $3); print $3 }'
}

is_ready() {
  local answer
  if [[ $mode == ssh ]]; then
    ssh "$1" curl -fsS --max-time 3 "http://127.0.0.1:$admin_port/health/ready" >/dev/null 2>&1
  else
    answer=$(local_admin "$1") && curl -fsS --max-time 3 "http://$answer/health/ready" >/dev/null 2>&1
  fi
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }

restart() {
  local pid
  if [[ $mode == ssh ]]; then
    # shellcheck disable=SC2029  # the unit's name is known here
    ssh "$1" sudo systemctl restart "$unit"
    return
  fi
  pid=$(<"$1/pid")
  kill -TERM "$pid"
  until_true "process $pid ends" has_ended "$pid"
  setsid nohup "$lance" --config "$1/node.toml" >>"$1/log" 2>&1 </dev/null &
  echo $! >"$1/pid"
}

for node in "$@"; do
  is_ready "${node#*=}" || fail "${node#*=} does not say that it is ready: is its admin address reachable from there?"
done
for node in "$@"; do
  id=${node%%=*} place=${node#*=}
  [[ $id =~ ^[0-9]+$ && -n $place && $place != "$node" ]] || { usage >&2; exit 2; }
  until_true "all nodes serve and all copies count, before node $id" is_whole
  say "node $id ($place): draining"
  resume=no
  if empty "$id"; then resume=yes; fi
  say "node $id ($place): restarting"
  restart "$place"
  until_true "node $id is ready" is_ready "$place"
  until_true "all copies count again, after node $id" is_whole
  if [[ $resume == yes ]]; then "$lnc" cluster resume "$id" >/dev/null || fail "node $id stays in maintenance"; fi
  say "node $id ($place): serves, all copies count"
done
say "done: $# nodes restarted"
