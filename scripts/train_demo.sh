#!/usr/bin/env bash
# Train a small bridge that also sees the degraded image on free photographs: the recipe of the demo models.
#
#   python scripts/make_demo_photographs.py --out photographs
#   bash scripts/train_demo.sh sr4x-bicubic photographs [further options of train.py, such as --num-itr 20000]
#
# One CPU thread (with bf16 for the demo models): run one task beside another, one per core.  Interrupted, the same
# command resumes.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: bash scripts/train_demo.sh TASK DIR [options of train.py]" >&2; exit 2; }
TASK="$1" DATA="$2"; shift 2
NAME="${NAME:-train-$TASK}"
if [ -e "results/$NAME/latest.pt" ]; then  # --init-from was for the start
    for option; do
        shift
        if [ "$option" = --init-from ]; then skip=1; elif [ "${skip:-}" ]; then skip=; else set -- "$@" "$option"; fi
    done
    set -- --ckpt "$NAME" "$@"
fi

export OMP_NUM_THREADS=1
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/../train.py" --name "$NAME" \
    --corrupt "$TASK" --dataset-dir "$DATA" --crop random --image-size 64 \
    --net small --cond-x1 --beta-max 0.3 \
    --batch-size 16 --microbatch 16 --num-itr 8000 \
    --lr 1e-3 --warmup 200 --lr-schedule cosine --grad-clip 1 --loss-weight balanced --ema-halflife-images 11000 \
    --precision auto --num-workers 1 --eval-every 0 --save-every 500 --log-every 50 "$@"
