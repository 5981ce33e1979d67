#!/usr/bin/env bash
# MMIG stage 1: MMSM alone.
#     sbatch slurm/stage1.sh [further arguments of train.py]   from the repository's root
#     DRY_RUN=1 bash slurm/stage1.sh                           prints what it would do
# Settings: top of slurm/prelude.sh.
#SBATCH --job-name=mmig-stage1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.log
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
[[ -r slurm/prelude.sh ]] || { echo "error: $PWD is not the repository's root: submit from there" >&2; exit 2; }
# shellcheck source=slurm/prelude.sh
source slurm/prelude.sh
train_stage 1 "$@"
