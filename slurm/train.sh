#!/usr/bin/env bash
# Train any method: a run from the configurations that are given, data among them.
#     sbatch slurm/train.sh NAME --config FILE [--config FILE ...] [further arguments of train.py]
#     DRY_RUN=1 bash slurm/train.sh NAME --config FILE ...     prints what it would do
# The run is RUNS/PREFIXNAME. MMIG_TRAINER comes first, so that whatever is given here wins over it. Settings: top of
# slurm/prelude.sh.
#SBATCH --job-name=mmig-train
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

USAGE="sbatch slurm/train.sh NAME --config FILE [--config FILE ...] [further arguments of train.py]"
NAME=${1:-}
[[ -n $NAME && $NAME != -* ]] || die "no NAME of the run given; usage: $USAGE"
[[ $NAME != */* ]] || die "NAME: expected the name of a run, found the path $NAME; usage: $USAGE"
shift

# Files that the arguments of train.py name as configurations, as `given`.
find_configs() {
    given=()
    while (($# > 0)); do
        case $1 in
            --config=*) given+=("${1#*=}") ;;
            --config | -c)
                (($# > 1)) || die "$1: no FILE after it; usage: $USAGE"
                given+=("$2")
                shift
                ;;
        esac
        shift
    done
    ((${#given[@]} > 0)) || die "no --config FILE given; usage: $USAGE"
}

find_configs "$@"
trainer_files
check_place "${given[@]}" "${trainers[@]}"
as_options "${trainers[@]}"
train "$MMIG_RUNS/$MMIG_PREFIX$NAME" "${options[@]}" "$@"
