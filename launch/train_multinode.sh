#!/usr/bin/env bash
# Trains on this node as one of NNODES: start the same command on every node, at about the same time.
#
#   [NAME=value ...] launch/train_multinode.sh RECIPE.yaml [--key value ...] [--dry-run]
#
# Before anything is loaded the nodes meet and compare what is installed: a missing GPU, a port in use or a package of
# another version ends all of them with the reason. --dry-run prints what would run.
#
# Environment, with defaults:
#   NNODES=1               nodes that train
#   NODE_RANK=             this node's number, from 0; Slurm's if empty
#   MASTER_ADDR=           name or address of node 0, as the others reach it
#   MASTER_PORT=29500      a free port of node 0; the next one is used for the comparison
#   GPUS=                  processes on this node, one a GPU; all of its GPUs if empty
#   STRATEGY=              ddp, zero1, zero2, zero3, zero3_offload or fsdp2, instead of what the recipe names
#   DEVICE=cuda            cpu: processes without GPUs (gloo), for tests; GPUS says how many
#   MEETING_SECONDS=600    how long to wait for the other nodes
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

dry_run=false
words=()
for word in "$@"; do
  if [[ $word == --dry-run ]]; then dry_run=true; else words+=("$word"); fi
done
set -- "${words[@]}"
if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
fi
recipe=$1
[[ -f $recipe ]] || fail "recipe $recipe is not there"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nodes=${NNODES:-1}
rank=${NODE_RANK:-${SLURM_PROCID:-}}
port=${MASTER_PORT:-29500}
device=${DEVICE:-cuda}
gpus=${GPUS:-}
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NNODES must be a number from 1; got $nodes"
if [[ $nodes -eq 1 ]]; then
  rank=0
fi
[[ $rank =~ ^[0-9]+$ && $rank -lt $nodes ]] || fail "NODE_RANK must be a number from 0 to $((nodes - 1)); got '$rank'"
[[ $nodes -eq 1 || -n ${MASTER_ADDR:-} ]] || fail "MASTER_ADDR must name node 0, since NNODES is $nodes"
[[ $device == cuda || $device == cpu ]] || fail "DEVICE must be cuda or cpu; got $device"
[[ -z $gpus || $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS must be a number from 1; got $gpus"
[[ $device == cuda || -n $gpus ]] || fail "GPUS must say how many processes to start, since DEVICE is cpu"

strategy=()
case ${STRATEGY:-} in
  "") ;;
  ddp) strategy=(--deepspeed null) ;;
  zero1 | zero2 | zero3 | zero3_offload) strategy=(--deepspeed "$here/$STRATEGY.json") ;;
  fsdp2) strategy=(--deepspeed null --fsdp full_shard --fsdp_config "$here/fsdp2.json") ;;
  *) fail "STRATEGY must be ddp, zero1, zero2, zero3, zero3_offload or fsdp2; got $STRATEGY" ;;
esac
if [[ $device == cpu ]]; then
  strategy+=(--ddp_backend gloo)
fi

if [[ $nodes -eq 1 ]]; then
  meeting=(--standalone)
else
  meeting=(--nnodes "$nodes" --node-rank "$rank" --rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$port" --rdzv-id led-rl)
fi
check=(python -m led_rl.training.preflight --nodes "$nodes" --rank "$rank" --address "${MASTER_ADDR:-localhost}"
  --port "$port" --device "$device" --gpus "${gpus:-all}" --seconds "${MEETING_SECONDS:-600}" --recipe "$recipe")
train=(torchrun "${meeting[@]}" --nproc-per-node "${gpus:-gpu}" "$here/../led_rl/train.py" "$@" "${strategy[@]}")
if $dry_run; then
  printf '%q ' "${check[@]}" && echo
  printf '%q ' "${train[@]}" && echo
  exit 0
fi
"${check[@]}"
exec "${train[@]}"
