#!/usr/bin/env bash
# One run a seed, as a job array; the seed is the array's index.     STAGE=1 sbatch --array=0-4 slurm/sweep.sh
# Any run: CONFIG=configs/instruct_pix2pix/published.yaml NAME=ip2p sbatch --array=0-2 slurm/sweep.sh
# A later stage starts from the same seed's run of the stage before, made by the same sweep. Each seed is
# RUNS/PREFIXNAME-seedK and is requeued, resumed and finished by itself.
#SBATCH --job-name=mmig-sweep
#SBATCH --array=0-4
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%A_%a.log
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
[[ -r slurm/prelude.sh ]] || { echo "error: $PWD is not the repository's root: submit from there" >&2; exit 2; }
# shellcheck source=slurm/prelude.sh
source slurm/prelude.sh

STAGE=${STAGE:-1}
CONFIG=${CONFIG:-$MMIG_CONFIGS/stage$STAGE.yaml}
NAME=${NAME:-stage$STAGE}
SEED=${SLURM_ARRAY_TASK_ID:-0}

seeded=(--seed_everything "$SEED" --model.init_args.seed "$SEED" --data.init_args.seed "$SEED")
if [[ $NAME == "stage$STAGE" && $STAGE != 1 ]]; then
    seeded+=(--init_from "$MMIG_RUNS/${MMIG_PREFIX}stage$((STAGE - 1))-seed$SEED")
fi
train_configured "$MMIG_RUNS/$MMIG_PREFIX$NAME-seed$SEED" "$CONFIG" "${seeded[@]}" "$@"
