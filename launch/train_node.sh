#!/usr/bin/env bash
# Trains on all GPUs of this node.
#
#   [NAME=value ...] launch/train_node.sh RECIPE.yaml [--key value ...] [--dry-run]
#
# Environment, with defaults: GPUS=, STRATEGY= and DEVICE=cuda, which are those of train_multinode.sh.
set -euo pipefail
if [[ $# -eq 0 ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2
  exit 2
fi
NNODES=1 exec "$(dirname "${BASH_SOURCE[0]}")/train_multinode.sh" "$@"
