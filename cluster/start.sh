#!/usr/bin/env bash
# Starts Ray on this machine, as the head of a cluster or as one of its workers.
#
#   bash start.sh head [OPTION of ray start ...]
#   bash start.sh worker HEAD[:PORT] [OPTION ...]
#
# `ray up` (cluster.yaml), Slurm (slurm.sh) and a hand all start it so. An option given here wins over the same one below, and one
# in RAY_START_OPTIONS over both.
set -uo pipefail

role=${1:-}
shift || true
case $role in
head) where=(--head --port=6379 --dashboard-host=0.0.0.0 --dashboard-port=8265 --ray-client-server-port=6386) ;;
worker)
    head=${1:?usage: start.sh worker HEAD[:PORT]}
    shift
    case $head in *:*) ;; *) head=$head:6379 ;; esac # of IPv6 with its port alone: [ADDRESS]:6379
    where=(--address="$head")
    ;;
*)
    echo "usage: start.sh head|worker [HEAD] [OPTION of ray start ...]" >&2
    exit 2
    ;;
esac

ulimit -n "$(ulimit -Hn)" # Ray's processes hold thousands of files
# The package's own Ray, whatever else the shell has on its PATH.
# shellcheck source=/dev/null
[ ! -r ~/prelar-ray/environment ] || . ~/prelar-ray/environment
# Everybody who starts Ray or asks it needs the same ~/.ray/auth_token.
export RAY_AUTH_MODE=token
# `ray job stop` kills after 3 seconds by itself; the runs of a study may need minutes for their checkpoints.
export RAY_JOB_STOP_WAIT_TIME_S=600
# Frames are drawn without a display; which GPU draws, each process chooses by itself.
export MUJOCO_GL=${MUJOCO_GL:-egl} PYOPENGL_PLATFORM=${PYOPENGL_PLATFORM:-egl}
if [ "$role" = head ]; then
    # Version 2 with the local provider starts one worker too few and waits for ever.
    export RAY_enable_autoscaler_v2=0
    # A machine that is cut off is noticed within seconds instead of a minute, and one whose cores are all busy is left alone, also
    # while its Ray starts.
    export RAY_health_check_initial_delay_ms=15000 RAY_health_check_period_ms=1000
    export RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3
fi

# The object store: 16 GiB of /dev/shm; by itself Ray takes 30 % of the memory, more than any batch needs. Ports are fixed, so
# that a firewall can let them pass.
options=(
    --object-store-memory=17179869184
    --node-manager-port=6380 --object-manager-port=6381 --runtime-env-agent-port=6382
    --dashboard-agent-listen-port=6383 --dashboard-agent-grpc-port=6384 --metrics-export-port=6385
    --min-worker-port=20000 --max-worker-port=20999
)

read -ra more <<<"${RAY_START_OPTIONS:-}"
set -- "${where[@]}" "${options[@]}" "$@" "${more[@]}"

# Several attempts: `ray start` waits 30 s for its own processes, and Ray's launcher never tries a machine again that failed.
# Not with --block, whose command ends when Ray does: `ray stop` would end the user's other Rays of the machine too.
case " $* " in *" --block "*) exec ray start "$@" ;; esac
said=$(mktemp)
trap 'rm -f "$said"' EXIT
for _ in 1 2 3 4 5; do
    ray start "$@" 2>&1 | tee "$said"
    code=${PIPESTATUS[0]}
    [ "$code" -ne 0 ] || exit 0
    # Neither a mistake in an option nor a Ray that runs already is mended by an end of the latter.
    if [ "$code" -eq 2 ] || grep -qi 'already running\|already started' "$said"; then
        exit "$code"
    fi
    ray stop
done
exit 1
