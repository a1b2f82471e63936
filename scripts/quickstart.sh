#!/usr/bin/env bash
# From nothing to restored photographs on a CPU: sets up .venv if needed, restores eight whole photographs with the demo
# models (seconds), then trains a small bridge on crops of photographs inside installed packages (minutes) and shows it
# beside the demo model, on photographs that neither has seen.  All it writes goes to ./quickstart.
#
#   bash scripts/quickstart.sh                      # 4x super-resolution
#   bash scripts/quickstart.sh --corrupt jpeg-10    # any other task; --help lists them
set -euo pipefail

TASK=sr4x-bicubic HELP=""
while [ $# -gt 0 ]; do
    case "$1" in
        --corrupt) [ $# -ge 2 ] || { echo "--corrupt: say which task; --help lists them" >&2; exit 2; }
                   TASK="$2"; shift 2 ;;
        --corrupt=*) TASK="${1#--corrupt=}"; shift ;;
        -h|--help) HELP=1; shift ;;
        *) echo "$1: not known; usage: bash scripts/quickstart.sh [--corrupt TASK]" >&2; exit 2 ;;
    esac
done

if [ -n "$HELP" ]; then
    echo "usage: bash scripts/quickstart.sh [--corrupt TASK]      writes ./quickstart; tasks:"
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    exec python3 -c 'from corruption.names import *; print(*TASKS, *PATTERNS, sep="\n")'
fi
EXTRAS=perceptual source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
PYTHONPATH="$ROOT" "$PYTHON" - "$TASK" <<'PY'
import sys
from corruption.names import check_task
try:
    if sys.argv[1] == "paired":
        raise ValueError("paired: needs pictures of yours, see docs/your-data.md; choose a task with an operator")
    check_task(sys.argv[1])
except ValueError as error:
    sys.exit(f"quickstart.sh: --corrupt {error}")
PY
case "$TASK" in
    sr4x-bicubic|jpeg-10) DEMO="demo-$TASK" ;;
    blur-gauss-2) DEMO=demo-deblur ;;
    *) DEMO="" ;;
esac
mkdir -p quickstart && cd quickstart
ACTIVATE="source $(printf %q "$(dirname "$PYTHON")/activate")"
[ -e "$(dirname "$PYTHON")/activate" ] || ACTIVATE="conda activate $(printf %q "${CONDA_PREFIX:-i2sb}")"
printf 'The commands below can be typed after\n%s\ncd %q\n' "$ACTIVATE" "$PWD"

step() {  # a headline, then the command as one could type it
    printf '\n== %s\npython %s\n' "$1" "$(printf '%q ' "$ROOT/$2" "${@:3}")"
    "$PYTHON" "$ROOT/$2" "${@:3}"
}

DATA=photographs
TRAIN=(
    --net tiny --cond-x1 --image-size 64 --num-workers 1
    --batch-size 8 --microbatch 8 --num-itr 400
    --lr 2e-3 --warmup 50 --lr-schedule cosine --grad-clip 1 --loss-weight balanced --ema-halflife-images 400
    --eval-every 0 --log-every 50
)

step "Whole photographs, degraded and restored by the demo models" scripts/restore_examples.py --out examples.png

step "A data set of crops; of coffee, china and chelsea nothing is used in training" \
    scripts/make_photo_dataset.py --out "$DATA" --size 64 --val-size 256 --num-train 3000 --num-val 2

step "Training a small bridge for $TASK" \
    train.py --name "$TASK" --corrupt "$TASK" --dataset-dir "$DATA" --overwrite "${TRAIN[@]}"

step "Restoring the held-out photographs with one network call each" \
    sample.py --ckpt "$TASK" --dataset-dir "$DATA" --image-size 256 --nfe 1 --overwrite

step "Evaluating, against the classical answer too" compute_metrices.py --ckpt "$TASK" --dataset-dir "$DATA" \
    --image-size 256 --sample-dir samples_nfe1 --metrics psnr ssim perceptual

step "Your bridge ${DEMO:+beside the demo model, }at one network call" \
    scripts/restore_examples.py --input "$DATA/val" --ckpt "$TASK" $DEMO --nfe 1 --out "$TASK.png"

cat <<END

Look at $PWD/examples.png
    and $PWD/$TASK.png

To restore a photograph of your own:
$ACTIVATE
cd $(printf %q "$PWD")
python $(printf %q "$ROOT/sample.py") --ckpt ${DEMO:-demo-jpeg-10} --input PHOTOGRAPH --output restored --nfe 1
END
