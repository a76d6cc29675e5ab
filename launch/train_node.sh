#!/usr/bin/env bash
# Trains on all GPUs of this node.
#
#   [NAME=value ...] launch/train_node.sh [--dry-run] RECIPE.yaml [--key value ...]
#
# GPUS, STRATEGY and DEVICE are those of train_multinode.sh.
set -euo pipefail
NNODES=1 exec "$(dirname "${BASH_SOURCE[0]}")/train_multinode.sh" "$@"
