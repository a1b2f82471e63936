#!/usr/bin/env bash
# The nine published trainings: bash scripts/train.sh TASK [more flags of train.py]
#
#   bash scripts/train.sh jpeg-5 --n-gpu-per-node 8 --dataset-dir /imagenet
#   bash scripts/train.sh --dry-run inpaint-center        # only show the command
#
# Published on 2 nodes of 8 GPUs with 32 GB each: batch 256, micro-batch 2, 1000 steps, ADM-256.
set -euo pipefail

here="$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)"
tasks="jpeg-5 jpeg-10 sr4x-pool sr4x-bicubic blur-uni blur-gauss inpaint-center inpaint-freeform1020 inpaint-freeform2030"
usage() { echo "usage: bash scripts/train.sh [--dry-run] TASK [flags of train.py]; TASK is one of $tasks" >&2; exit 2; }

show_only=""
if [ "${1:-}" = --dry-run ]; then show_only=yes; shift; fi
[ $# -ge 1 ] || usage
task="$1"; shift

case "$task" in
    jpeg-5 | jpeg-10 | sr4x-pool | sr4x-bicubic)
        bridge=(--beta-max 0.3) ;;
    blur-uni | blur-gauss | inpaint-center | inpaint-freeform1020 | inpaint-freeform2030)
        bridge=(--beta-max 1.0 --ot-ode) ;;
    *) usage ;;
esac

command=("${PYTHON:-python}" "$here/../train.py" --name "$task" --corrupt "$task" "${bridge[@]}"
    --interval 1000 --batch-size 256 --microbatch 2 "$@")
printf '%q ' "${command[@]}"; echo
[ -n "$show_only" ] || exec "${command[@]}"
