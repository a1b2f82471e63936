#!/usr/bin/env bash
# A worked SLURM example: two nodes of eight GPUs, one launcher per node; saves and requeues itself before the
# time limit.  Adapt the lines below and: sbatch scripts/slurm.sh TASK [more flags of train.py]
#SBATCH --job-name=i2sb
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

task="${1:?usage: sbatch scripts/slurm.sh TASK [flags of train.py]}"; shift
name="$task"
for ((i = 1; i <= $#; i++)); do
    case "${!i}" in
        --name) next=$((i + 1)); name="${!next:-}" ;;
        --name=*) name="${!i#--name=}" ;;
    esac
done

# Five minutes before the limit SLURM sends USR1 to this script, which hands it to all processes of the step:
# train.py saves and ends with code 0.  The job is then requeued and resumes from latest.pt, as it
# does after a failed node (also where the first start was from another --ckpt: the last flag counts).
resume=()
[ -e "results/$name/latest.pt" ] && resume=(--ckpt "$name")

requeue=""
trap 'requeue=yes; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1

# Each launcher finds its node's index in SLURM's variables; the first node hosts rank 0.
srun --kill-on-bad-exit=1 bash scripts/train.sh "$task" \
    --n-gpu-per-node "${SLURM_GPUS_ON_NODE:-8}" \
    --num-proc-node "$SLURM_JOB_NUM_NODES" \
    --master-address "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)" \
    "$@" "${resume[@]}" &
step=$!
# A signal ends `wait` early: wait again until the step itself has ended.
code=0; wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done

[ -z "$requeue" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
