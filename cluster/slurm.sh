#!/usr/bin/env bash
#SBATCH --job-name=prelar-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#
# A Ray cluster inside one Slurm allocation, and a command on it:
#
#   sbatch cluster/slurm.sh prelar-ray tune tune_configs/metaworld6.yaml --out /shared/metaworld6
#   sbatch --nodes=8 --gpus-per-node=1 cluster/slurm.sh prelar-ray tune ...
#
# The command gets the cluster's address, and --resume when the job was requeued. Five minutes before the end of its time the
# runs write their checkpoints, and the job asks for another turn. Folders must be shared by the nodes, as homes usually are;
# the package is installed in ~/prelar-ray (install.sh), or in the environment that is active when the job is submitted.
# PRELAR_NETWORK=10.1. chooses among several networks by the start of the head's address.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch slurm.sh COMMAND ..., for example: prelar-ray tune SWEEP --out DIR" >&2; exit 2; }
# Slurm copies a job's script elsewhere; the one beside it is found by the folder that the job was submitted from.
here=${PRELAR_CLUSTER:-$SLURM_SUBMIT_DIR/cluster}
[ -f "$here/start.sh" ] || here=$HOME/prelar-ray/package
[ -f "$here/start.sh" ] || { echo "error: no start.sh; submit from the project's folder, or set PRELAR_CLUSTER" >&2; exit 2; }
# shellcheck source=/dev/null
[ ! -r ~/prelar-ray/environment ] || . ~/prelar-ray/environment

# A token that nobody else can read, for all of the user's clusters.
token=$HOME/.ray/auth_token
if [ ! -s "$token" ]; then
    (umask 077 && mkdir -p ~/.ray && ray get-auth-token --generate >/dev/null)
fi
chmod 600 "$token"
export RAY_AUTH_MODE=token

# Ports of the job's own, for another job may share a node. Processes of Ray take any free ones.
base=$((20000 + SLURM_JOB_ID % 2000 * 10))
ports=(
    --node-manager-port=$((base + 1)) --object-manager-port=$((base + 2)) --runtime-env-agent-port=$((base + 3))
    --dashboard-agent-listen-port=$((base + 4)) --dashboard-agent-grpc-port=$((base + 5))
    --metrics-export-port=$((base + 6)) --min-worker-port=0 --max-worker-port=0
)
cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
size=(--num-cpus="$cpus" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")
# Ray asks the machine for its memory, and not Slurm for the job's; a quarter of it is for the object store and the rest.
[ -z "${SLURM_MEM_PER_NODE:-}" ] || size+=(--memory=$((SLURM_MEM_PER_NODE * 786432)))
# srun inherits these no longer since Slurm 22.05; Ray's one task would be bound to one core.
export SRUN_CPUS_PER_TASK=$cpus SLURM_CPU_BIND=none
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
on_head=(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --overlap)
address=$("${on_head[@]}" hostname -I | tr ' ' '\n' | grep -m 1 "^${PRELAR_NETWORK:-}[0-9]") ||
    { echo "error: ${nodes[0]} has no address that starts with ${PRELAR_NETWORK:-a digit}" >&2; exit 1; }

count() {
    ray list nodes --address "http://$address:$((base + 7))" --filter state=ALIVE --format json 2>/dev/null |
        grep -o '"node_id"' | wc -l
}
wait_for() { # NODES PID: of the srun that starts them
    local until=$((SECONDS + 300))
    until [ "$(count)" -ge "$1" ]; do
        kill -0 "$2" 2>/dev/null || { echo "error: Ray ended while $1 nodes were awaited; see above" >&2; exit 1; }
        [ $SECONDS -lt $until ] || { echo "error: $(count) of $1 nodes of Ray after 300 s; see above" >&2; exit 1; }
        sleep 2
    done
}

# Its temporary folder is in nobody else's way, and short enough for the paths of sockets.
trap 'srun --overlap rm -rf "/tmp/ray-$SLURM_JOB_ID" || true' EXIT
"${on_head[@]}" bash "$here/start.sh" head --block --node-ip-address="$address" --port="$base" \
    --dashboard-port=$((base + 7)) --ray-client-server-port=$((base + 8)) --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${size[@]}" "${ports[@]}" &
wait_for 1 $!
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap \
        --nodelist="$(IFS=, && echo "${nodes[*]:1}")" \
        bash "$here/start.sh" worker "$address:$base" --block "${size[@]}" "${ports[@]}" &
    wait_for "${#nodes[@]}" $!
fi
echo "Ray on ${#nodes[@]} nodes: $address:$base, dashboard http://$address:$((base + 7))"

# A job that was requeued before anything was written starts again.
before=
for word in "$@"; do
    if [ "$before" = --out ] && { [ -e "$word/study.yaml" ] || compgen -G "$word/checkpoints/[0-9]*" >/dev/null; }; then
        [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || set -- "$@" --resume
        break
    fi
    before=$word
done
case " $* " in
*" tune "*) "$@" --cluster "$address:$base" & ;;
*) "$@" cluster="$address:$base" & ;;
esac
command=$!
# Bash runs a trap once the command it waits for has ended, or at once during `wait`.
trap 'kill -USR1 $command 2>/dev/null' USR1
trap 'kill -TERM $command 2>/dev/null' TERM
code=0
wait $command || code=$?
while kill -0 $command 2>/dev/null; do
    wait $command || code=$?
done
if [ "$code" -eq 75 ]; then # checkpoints are written, and there is more to do
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
