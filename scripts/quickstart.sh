#!/usr/bin/env bash
# From nothing to restored photographs in minutes on a CPU: sets up .venv if needed, cuts a small data set from
# photographs inside installed packages, trains a small bridge, restores photographs it has never seen, evaluates
# them, and draws a picture.  All it writes goes to ./quickstart of the current folder.
#
#   bash scripts/quickstart.sh                      # 4x super-resolution
#   bash scripts/quickstart.sh --corrupt jpeg-5     # any other task
set -euo pipefail

TASK=sr4x-bicubic
usage() { echo "usage: bash scripts/quickstart.sh [--corrupt TASK]" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case "$1" in
        --corrupt) [ $# -ge 2 ] || usage; TASK="$2"; shift 2 ;;
        --corrupt=*) TASK="${1#--corrupt=}"; shift ;;
        *) usage ;;
    esac
done

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
mkdir -p quickstart && cd quickstart

step() {  # a headline, then the command, shown as one could type it
    printf '\n== %s\n' "$1"; shift
    echo "python $*"
    "$PYTHON" "$ROOT/$1" "${@:2}"
}

DATA=photographs
SAMPLES=(samples_nfe1_clip samples_nfe5_clip)
# 10000 steps with --beta-max 1 make all betas equal: clean and degraded image are then mixed 20, 40, .. to 80 %
# at the steps that NFE 5 visits.  The steeper published schedules need longer training to be as good there.
TRAIN=(
    --net tiny --channels-last --image-size 32 --num-workers 1
    --ot-ode --interval 10000 --beta-max 1.0 --T 0.1
    --batch-size 8 --microbatch 8 --num-itr 1300 --lr 2e-3 --lr-gamma 0.8 --lr-step 120
    --eval-every 0 --log-every 100
)

step "A data set of crops; coffee, china and chelsea are held out" \
    scripts/make_photo_dataset.py --out "$DATA" --size 32 --val-size 64 --num-train 6000

step "Training a small OT-ODE bridge for $TASK" \
    train.py --name "$TASK" --corrupt "$TASK" --dataset-dir "$DATA" --overwrite "${TRAIN[@]}"

for nfe in 1 5; do
    step "Restoring the held-out photographs with $nfe network call(s) each" \
        sample.py --ckpt "$TASK" --dataset-dir "$DATA" --image-size 64 --nfe "$nfe" --clip-denoise --overwrite
done

step "Evaluating" compute_metrices.py --ckpt "$TASK" --dataset-dir "$DATA" --image-size 64 \
    --sample-dir "${SAMPLES[@]}" --metrics psnr ssim

step "Drawing" scripts/draw_comparison.py --ckpt "$TASK" --dataset-dir "$DATA" --image-size 64 \
    --sample-dir "${SAMPLES[@]}" --out "$TASK.png"
echo
echo "Look at $PWD/$TASK.png"
