#!/usr/bin/env bash
# Evaluate a run on its test split.                                    sbatch slurm/evaluate.sh [options of evaluate.py]
# CHECKPOINT names the run (default: that of stage 5), OUT the folder of the results; --config or --images among the options
# score what is no run, and need OUT; with --protocol the data are its own. Settings: slurm/prelude.sh.
#SBATCH --job-name=mmig-evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=06:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.log
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" || exit 2
[[ -r slurm/prelude.sh ]] || { echo "error: $PWD is not the repository's root: submit from there" >&2; exit 2; }
# shellcheck source=slurm/prelude.sh
source slurm/prelude.sh

if [[ " $* " =~ \ --(config|images)[=\ ] ]]; then
    job=${OUT:-}
    [[ -n $job ]] || die "OUT: expected the folder of the results, for no run is scored"
    scored=()
else
    job=${CHECKPOINT:-$(stage_run "$NUM_STAGES")}
    OUT=${OUT:-$job/evaluation}
    scored=(--checkpoint "$job")
fi
# evaluate.py reads its rank where torchrun puts it
# shellcheck disable=SC2016 # each task's shell reads them
ranked=(bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' rank)
data=(--data "$MMIG_DATA")
[[ " $* " =~ \ --protocol[=\ ] ]] && data=()
command=("${ranked[@]}" "$MMIG_PYTHON" evaluate.py "${scored[@]}" "${data[@]}" --out "$OUT" "$@")

((${#data[@]} == 0)) || check_place "$MMIG_DATA"
if dry_run; then
    print_job "$job" "${command[@]}"
    exit
fi
job_environment "$job"
open_job "$job"
launch "${command[@]}"
job_result="$job evaluated, results in $OUT"
