#!/usr/bin/env bash
# The generation node of TRL's server mode: `led-rl serve` with what a trainer with `vllm_mode: server` needs of it.
#
#   [NAME=value ...] launch/serve_rollouts.sh MODEL [options of led-rl serve and of vllm serve]
#
# and on the training node, in the recipe or on its command line:
#
#   vllm_mode: server
#   vllm_server_base_url: http://GENERATION-NODE:8000
#
# Environment, with defaults:
#   LED_DEPTH=8               the largest led_depth that the recipe may name
#   TENSOR_PARALLEL_SIZE=1    GPUs that share one copy of the model
#   DATA_PARALLEL_SIZE=1      copies of the model on this node
#   SERVER_NODES=1            nodes that this server is spread over: the same command on each, and for each of them
#   SERVER_ADDRESS=           the first node's name or address, and
#   NODE_RANK=                its own number, from 0; Slurm's if empty. The first one answers requests.
#   HOST=0.0.0.0  PORT=8000   where to listen. Anyone who reaches this port can replace the weights: keep it inside.
#   MAX_MODEL_LEN=            longest prompt and completion in tokens; the model's own limit if empty
#   WEIGHT_TRANSFER=nccl      vLLM's backend for new weights, a connection beside HTTP; empty to serve a fixed checkpoint
set -euo pipefail

if [[ $# -eq 0 || $1 == -* ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
fi

options=(
  --led-depth "${LED_DEPTH:-8}"
  --tensor-parallel-size "${TENSOR_PARALLEL_SIZE:-1}"
  --logprobs-mode processed_logprobs # log mu, not the final layer's: TRL corrects the loss with it
  --max-logprobs -1
)
copies=${DATA_PARALLEL_SIZE:-1}
nodes=${SERVER_NODES:-1}
rank=${NODE_RANK:-${SLURM_PROCID:-0}}
if ((nodes == 1)); then
  options+=(--data-parallel-size "$copies" --host "${HOST:-0.0.0.0}" --port "${PORT:-8000}")
else
  options+=(--data-parallel-size "$((nodes * copies))" --data-parallel-size-local "$copies"
    --data-parallel-address "${SERVER_ADDRESS:?must name the first node, since SERVER_NODES is $nodes}")
  if ((rank == 0)); then
    options+=(--host "${HOST:-0.0.0.0}" --port "${PORT:-8000}")
  else
    options+=(--headless --data-parallel-start-rank "$((rank * copies))")
  fi
fi
if [[ -n ${MAX_MODEL_LEN:-} ]]; then
  options+=(--max-model-len "$MAX_MODEL_LEN")
fi
if [[ -n ${WEIGHT_TRANSFER-nccl} ]]; then
  options+=(--weight-transfer-config "{\"backend\": \"${WEIGHT_TRANSFER:-nccl}\"}")
fi

export LED_RL_SUPPORT=1       # answers say which ids each token could have been: the loss is normalised over them
export LED_RL_FINAL_ENTROPY=1 # and the final layer's entropy, for the trainer's led/entropy_final
export VLLM_SERVER_DEV_MODE=1 # the endpoints through which TRL sends weights
exec led-rl serve "$1" "${options[@]}" "${@:2}"
