#!/usr/bin/env bash
# Submit the stages that are left, each after the one before it. From a login node:   slurm/chain.sh
# Called again at any time it goes on from where the chain stands: finished stages are left out, a stage that waits or
# runs, from here or by hand, is not submitted twice. Prints one line a stage. What it would do: DRY_RUN=1 slurm/chain.sh
cd "$(dirname "$0")/.." || exit 2
# shellcheck source=slurm/prelude.sh
source slurm/prelude.sh

# Job that waits or runs for a stage, and its state. Jobs of a chain carry the run's folder as their comment, and so does
# every job once it runs. One that was submitted by hand and waits has none: it is known by its script and this folder.
queued() {
    local number=$1 run jobs found
    run=$(realpath -m "$(stage_run "$number")")
    jobs=$(squeue --noheader --me --format='%i|%T|%k|%Z|%o' 2>&1) || {
        dry_run && return # it may be looked at where there is no SLURM
        die "squeue: $jobs"
    }
    found=$(awk -F'|' -v run="$run" '$3 == run { print $1, $2; exit }' <<<"$jobs")
    if [[ -z $found ]]; then
        found=$(awk -F'|' -v here="$(pwd -P)" -v script="slurm/stage$number.sh" '
            ($3 == "" || $3 == "(null)") && $4 == here && index($5, script) { print $1, $2 ", submitted by hand"; exit }
        ' <<<"$jobs")
        [[ -z $found || -z $MMIG_PREFIX ]] ||
            die "job ${found%% *} was submitted by hand, and while it waits nobody can see whether it is for $run or a run" \
                "of another prefix; for this one: scontrol update JobId=${found%% *} Comment=$run. Else wait until it runs"
    fi
    echo "$found"
}

# Submit stage N after a job ("": at once); prints the job's number.
submit() {
    local number=$1 after=$2
    local command=(sbatch --parsable --export=ALL --kill-on-invalid-dep=yes --job-name="mmig-${MMIG_PREFIX}stage$number"
        --comment="$(realpath -m "$(stage_run "$number")")")
    [[ -z $after ]] || command+=("--dependency=afterok:$after")
    # shellcheck disable=SC2206 # words on purpose
    command+=($MMIG_SUBMIT_OPTIONS "slurm/stage$number.sh")
    if dry_run; then
        quoted "${command[@]}" >&2
        echo >&2
        echo "JOB$number"
    else
        "${command[@]}" | cut -d ';' -f 1
    fi
}

# The first stage that is not finished; a finished one needs none of those before it.
first_unfinished() {
    local number
    for ((number = NUM_STAGES; number >= 1; number--)); do
        ! is_finished "$(stage_run "$number")" || break
    done
    echo $((number + 1))
}

[[ -z $SBATCH_PARTITION ]] || export SBATCH_PARTITION
[[ -z $SBATCH_ACCOUNT ]] || export SBATCH_ACCOUNT
# what was set above or before it, for the jobs
export MMIG_CONFIGS MMIG_DATA MMIG_TRAINER MMIG_OVERRIDES MMIG_RUNS MMIG_PREFIX MMIG_PYTHON MMIG_CONTAINER \
    MMIG_CONTAINER_OPTIONS MMIG_SETUP MMIG_HEARTBEAT_SECONDS

first=$(first_unfinished)
for ((number = 1; number < first; number++)); do
    echo "stage $number  finished: $(stage_run "$number")"
done
before=
for ((number = first; number <= NUM_STAGES; number++)); do
    found=$(queued "$number") || exit
    if [[ -n $found ]]; then
        before=${found%% *}
        echo "stage $number  already there: job $before, ${found#* }"
        continue
    fi
    after=$before
    before=$(submit "$number" "$after")
    echo "stage $number  submitted: job $before${after:+, after job $after}"
done
