# shellcheck shell=bash
# What every script of this folder shares: the settings of a site, the environment of a job, how a program is started
# under srun, and how a job ends. Sourced from the repository's root, never run. Described in docs/cluster.md.
# shellcheck disable=SC2034 # some variables are read by the scripts
set -euo pipefail

# --- What is specific to a site or a user. The environment wins over what stands here. --------------------------------
: "${SBATCH_PARTITION=}"                          # sbatch reads these two from the environment; what stands here
: "${SBATCH_ACCOUNT=}"                            # reaches it through chain.sh alone
: "${MMIG_SUBMIT_OPTIONS=}"                       # further options of sbatch for chain.sh, as --nodes=2 --time=12:00:00
: "${MMIG_TRAINER=configs/trainer/ddp.yaml}"      # a trainer configuration; several, in names without spaces
: "${MMIG_CONFIGS=configs/mmig}"                  # folder of stage1.yaml ... stage5.yaml
: "${MMIG_DATA=configs/data/shards.yaml}"         # data configuration; train.sh is given its own
: "${MMIG_OVERRIDES=--data.init_args.resolution 512}" # settings that win over all three, quoted as in a shell
: "${MMIG_RUNS=runs}"                             # folder of the runs, on a file system that all nodes share
: "${MMIG_PREFIX=}"                               # before the runs' names: PREFIXstage1 ... PREFIXstage5, PREFIXNAME
: "${MMIG_PYTHON=.venv/bin/python}"               # the interpreter, in the container where there is one
: "${MMIG_CONTAINER=}"                            # an Apptainer image (slurm/mmig.def); empty: none
: "${MMIG_CONTAINER_OPTIONS=--nv}"                # options of `apptainer exec`, as --nv --bind /datasets
: "${MMIG_SETUP=}"                                # a file to source first, with `module load` lines
: "${MMIG_HEARTBEAT_SECONDS=300}"                 # between two signs of life in the log

NUM_STAGES=5
job_result=

log() {
    printf '[mmig %s] %s\n' "$(date +%FT%T)" "$*"
}

die() {
    job_result="failed: $*"
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Whether commands are only printed.
dry_run() {
    [[ ${DRY_RUN:-0} != 0 ]]
}

# Words of a command as they could be typed.
quoted() {
    printf '%q ' "$@" | sed 's/ $//'
}

# Run of a stage: RUNS/PREFIXstageN.
stage_run() {
    printf '%s/%sstage%s' "$MMIG_RUNS" "$MMIG_PREFIX" "$1"
}

# Whether train.py has come to the end of a run.
is_finished() {
    [[ -e $1/finished.json ]]
}

# The script that runs, which SLURM copies to a place of its own.
own_file() {
    [[ $0 == /* ]] && echo "$0" || echo "slurm/${0##*/}"
}

# Value of an #SBATCH option of the script that runs: what a dry run without SLURM shows.
asked_for() {
    sed -n "s/^#SBATCH --$1=\([^ ]*\).*/\1/p" "$(own_file)" | head -n 1
}

num_nodes() {
    printf '%s' "${SLURM_NNODES:-$(asked_for nodes)}"
}

tasks_per_node() {
    if [[ -n ${SLURM_NTASKS:-} ]]; then
        printf '%s' "$((SLURM_NTASKS / SLURM_NNODES))"
    else
        asked_for ntasks-per-node
    fi
}

# CPUs of a task; nothing where a job does not say.
cpus_per_task() {
    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        printf '%s' "${SLURM_CPUS_PER_TASK:-}"
    else
        asked_for cpus-per-task
    fi
}

# Address of the first node. A name would have to be resolved on every node, and often means 127.0.1.1 on its own.
first_address() {
    local node name address
    if [[ $(num_nodes) == 1 ]]; then
        echo 127.0.0.1
        return
    fi
    node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    name=$(scontrol show node --oneliner "$node" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    address=$(getent ahostsv4 "${name:-$node}" | awk 'NR == 1 { print $1 }')
    if [[ -z $address || ($address == 127.* && $address != "$name") ]]; then
        address=$(hostname -I | awk '{ print $1 }') # this script runs on the first node
    fi
    [[ -n $address ]] || die "no address found for the first node $node; set MASTER_ADDR"
    echo "$address"
}

# Variables of a job; those that are set already stay.
job_environment() {
    local run=$1
    [[ -n ${MASTER_ADDR:-} ]] || MASTER_ADDR=$(first_address)
    export MASTER_ADDR
    export MASTER_PORT=${MASTER_PORT:-$((15000 + ${SLURM_JOB_ID:-0} % 15000))} # below the ports that systems hand out
    export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}                                # thousands of ranks would ask the hub
    [[ -n ${OMP_NUM_THREADS:-} ]] || OMP_NUM_THREADS=$(cpus_per_task)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
    export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 # stack traces of what dies inside a library
    # What NCCL has to say goes into the log; train.py switches torch's flight recorder on, which writes to RUN/hang.
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    # The same run of W&B after a requeue, where configs/trainer/wandb.yaml is chosen.
    export WANDB_NAME=${WANDB_NAME:-${run##*/}} WANDB_RUN_ID=${WANDB_RUN_ID:-${run##*/}} WANDB_RESUME=allow
}

# The newest checkpoint of a run and its age, as words.
newest_checkpoint() {
    local path newest=
    for path in "$1"/checkpoints/step-????????.ckpt; do
        [[ ! -e $path ]] || newest=$path
    done
    if [[ -z $newest ]]; then
        echo "no checkpoint yet"
    else
        newest=${newest##*/}
        echo "newest checkpoint at step $((10#${newest//[!0-9]/})), $(age "$1/checkpoints/$newest") old"
    fi
}

# Minutes since a file was written.
age() {
    echo "$((($(date +%s) - $(stat -c %Y "$1")) / 60)) min"
}

heartbeat() {
    local run=$1 waiting=
    trap 'kill "$waiting" 2>/dev/null; exit' TERM
    while :; do
        sleep "$MMIG_HEARTBEAT_SECONDS" &
        waiting=$!
        wait "$waiting"
        log "heartbeat: job ${SLURM_JOB_ID:-} runs for $((SECONDS / 60)) min; $run: $(newest_checkpoint "$run")"
    done
}

# The last line of a log: what became of the job.
last_line() {
    local status=$?
    [[ -z ${heartbeat_pid:-} ]] || kill "$heartbeat_pid" 2>/dev/null || true
    log "END job ${SLURM_JOB_ID:-none}, attempt $((${SLURM_RESTART_COUNT:-0} + 1)), $((SECONDS / 60)) min:" \
        "${job_result:-failed with status $status}"
}

# Let a job that was submitted by hand carry what one of the chain does: its run's folder, as its comment.
tell_run() {
    local comment
    comment=$(squeue --noheader --job "$SLURM_JOB_ID" --format=%k 2>/dev/null) || return 0
    [[ -n $comment && $comment != "(null)" ]] ||
        scontrol update "JobId=$SLURM_JOB_ID" "Comment=$(realpath -m "$1")" 2>/dev/null || true # as in a container
}

# Say how the job begins, sign life from then on, and say how it ended.
open_job() {
    local run=$1
    tell_run "$run"
    log "BEGIN job ${SLURM_JOB_ID}, attempt $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST}:" \
        "$run, $(newest_checkpoint "$run")"
    trap last_line EXIT
    trap : USR1 USR2 # the tasks get their own; this shell waits for them
    trap 'log "SLURM ends this attempt: requeue, cancellation, time limit or a lost node"' TERM
    heartbeat "$run" &
    heartbeat_pid=$!
}

# Start one process a task. Arguments: the program of Python and its own arguments.
launch() {
    local command=(srun --kill-on-bad-exit=1 --label --export=ALL) cpus
    cpus=$(cpus_per_task)
    [[ -z $cpus ]] || command+=("--cpus-per-task=$cpus") # srun does not inherit it
    if [[ -n $MMIG_CONTAINER ]]; then
        # shellcheck disable=SC2206 # words on purpose
        command+=(apptainer exec $MMIG_CONTAINER_OPTIONS --bind "$PWD" --pwd "$PWD" "$MMIG_CONTAINER")
    fi
    command+=("$@")
    if dry_run; then
        quoted "${command[@]}"
        echo
    else
        "${command[@]}" &
        wait_for $!
    fi
}

# Wait for a child in the background, so that this shell hears signals at once; the status is the child's.
wait_for() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true # a signal ends the wait, not the child
    done
    wait "$1"
}

# What a script prints in place of running: where it would run, with which variables, and the command.
print_job() {
    local run=$1 name
    shift
    echo "run          $run ($(newest_checkpoint "$run"))"
    echo "resources    $(sed -n 's/^#SBATCH //p' "$(own_file)" | tr '\n' ' ')"
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        echo "environment  as of job number 0 on one node"
        SLURM_NNODES=1 job_environment "$run"
    else
        job_environment "$run"
    fi
    for name in MASTER_ADDR MASTER_PORT HF_HUB_OFFLINE OMP_NUM_THREADS NCCL_DEBUG; do
        echo "             $name=${!name}"
    done
    printf 'command      '
    launch "$@"
}

# Files of MMIG_TRAINER, as `trainers`: one whose name may hold spaces, or several words.
trainer_files() {
    trainers=("$MMIG_TRAINER")
    # shellcheck disable=SC2206 # words on purpose
    [[ -e $MMIG_TRAINER ]] || trainers=($MMIG_TRAINER)
}

# Refuse what would fail later and say less.
check_place() {
    local file
    for file in "$@"; do
        [[ -r $file ]] || die "$file: no such file; see the settings at the top of slurm/prelude.sh"
    done
    dry_run && return
    [[ -n ${SLURM_JOB_ID:-} ]] || die "not inside a SLURM job: submit it with sbatch, or look at it with DRY_RUN=1"
    if [[ -n $MMIG_CONTAINER ]]; then
        [[ -r $MMIG_CONTAINER ]] || die "MMIG_CONTAINER=$MMIG_CONTAINER: no such image"
    elif [[ ! -x $MMIG_PYTHON ]]; then
        die "MMIG_PYTHON=$MMIG_PYTHON: no such program; run \`make setup\`"
    fi
}

# Train one run to its end. Arguments: the run's folder, then those of `train.py fit`.
train() {
    local run=$1 status=0
    shift
    local command=("$MMIG_PYTHON" train.py fit "$@" --name "${run##*/}" --runs "$(dirname "$run")"
        --trainer.num_nodes "$(num_nodes)" --trainer.devices "$(tasks_per_node)")
    if dry_run; then
        print_job "$run" "${command[@]}"
        return
    fi
    job_environment "$run"
    open_job "$run"
    launch "${command[@]}" || status=$?
    close_training "$run" "$status"
}

# How a training ended: status 0 is for a run that has come to its end, so that nothing is built on half a run.
close_training() {
    local run=$1 status=$2 state
    if ((status == 0)) && is_finished "$run"; then
        job_result="$run finished, $(newest_checkpoint "$run")"
        return
    fi
    state=$(squeue --noheader --job "$SLURM_JOB_ID" --format=%T) || state=RUNNING
    if [[ $state == RUNNING ]] && ((status != 0 && status != 138 && status != 140)); then
        job_result="$run failed with status $status, $(newest_checkpoint "$run"); the reason stands above"
        exit "$status"
    fi
    job_result="$run interrupted, $(newest_checkpoint "$run"); the same job or command continues it"
    # A task that was sent SIGUSR1 or SIGUSR2 before its first step, or in a container, could not requeue the job. The
    # job is not running any more where it is queued again already, cancelled, or out of time.
    if [[ $state == RUNNING ]] && ((status != 0)); then
        log "requeueing job $SLURM_JOB_ID from its batch script"
        scontrol requeue "$SLURM_JOB_ID" || true # why not, as for --no-requeue, is said in the log
    fi
    exit $((status == 0 ? 75 : status)) # EX_TEMPFAIL; a job that is queued again has no status
}

# Words of train.py that give it configurations, as `options`. Arguments: the files.
as_options() {
    local file
    options=()
    for file in "$@"; do
        options+=(--config "$file")
    done
}

# Train a run on the data and by the trainer of the settings, whose overrides win over all three. Arguments: the run's
# folder, the method's configuration, then further arguments of train.py.
train_configured() {
    local run=$1 options trainers words overrides=()
    trainer_files
    local files=("$2" "$MMIG_DATA" "${trainers[@]}")
    shift 2
    check_place "${files[@]}"
    as_options "${files[@]}"
    # words as a shell takes them, quotes included, but nothing in them is expanded
    words=$(xargs -r -n 1 printf '%s\n' <<< "$MMIG_OVERRIDES")
    [[ -z $words ]] || mapfile -t overrides <<< "$words"
    train "$run" "${options[@]}" "${overrides[@]}" "$@"
}

# Train stage N from the run of the stage before. Arguments: N, then further arguments of train.py.
train_stage() {
    local number=$1 start=()
    shift
    ((number == 1)) || start=(--init_from "$(stage_run $((number - 1)))")
    train_configured "$(stage_run "$number")" "$MMIG_CONFIGS/stage$number.yaml" "${start[@]}" "$@"
}

if [[ -n $MMIG_SETUP ]]; then
    # shellcheck source=/dev/null
    source "$MMIG_SETUP"
fi
