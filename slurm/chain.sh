#!/usr/bin/env bash
# Submit the stages that are left, each after the one before it. From a login node:   slurm/chain.sh
# Called again at any time it goes on from where the chain stands: finished stages are left out, a stage that waits or
# runs is not submitted twice. Prints one line a stage. What it would do: DRY_RUN=1 slurm/chain.sh
cd "$(dirname "$0")/.." || exit 2
# shellcheck source=slurm/prelude.sh
source slurm/prelude.sh

# Job that waits or runs for a run, and its state; jobs of a chain carry the run's folder as their comment.
queued() {
    local jobs
    jobs=$(squeue --noheader --me --format='%i|%T|%k' 2>&1) || {
        dry_run && return # it may be looked at where there is no SLURM
        die "squeue: $jobs"
    }
    awk -F'|' -v run="$1" '$3 == run { print $1, $2; exit }' <<<"$jobs"
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
    found=$(queued "$(realpath -m "$(stage_run "$number")")")
    if [[ -n $found ]]; then
        before=${found% *}
        echo "stage $number  already there: job $before, ${found#* }"
        continue
    fi
    after=$before
    before=$(submit "$number" "$after")
    echo "stage $number  submitted: job $before${after:+, after job $after}"
done
