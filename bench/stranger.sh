#!/bin/sh
# A stranger's path, timed: clone to first picture, own folder to first fine-tuned edit, a paper's table and ours beside it.
# Usage: bench/stranger.sh FOLDER [REPOSITORY] (a new folder; default: the repository that this file is in). Set-up needs a
# package registry and 7 GB; PIP_ARGS is passed to pip. Prints one line a step: seconds on the clock, seconds of
# processor time of all its processes, and what was done.
set -eu
FOLDER=${1:?usage: bench/stranger.sh FOLDER [REPOSITORY]}
REPOSITORY=${2:-$(cd "$(dirname "$0")/.." && pwd)}

# Sets SPENT to the processor seconds of all children so far. `times` must not run in a subshell, which has none yet.
processor() {
    times >"$FOLDER.times"
    SPENT=$(awk 'NR == 2 { split($1 $2, part, /[ms]/); printf "%d", 60 * (part[1] + part[3]) + part[2] + part[4] }' "$FOLDER.times")
}

step() {
    what=$1
    shift
    processor
    before=$SPENT
    start=$(date +%s)
    "$@" >"$FOLDER.log" 2>&1 || { echo "failed: $what; its output:" && cat "$FOLDER.log" && exit 1; }
    seconds=$(($(date +%s) - start))
    processor
    echo "$seconds s, processor $((SPENT - before)) s  $what"
}

step "clone" git clone "$REPOSITORY" "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)
cd "$FOLDER"
step "set-up (make setup)" make setup
export HF_HUB_OFFLINE=1
RUN=.venv/bin/python

step "first picture (docs/edit.md)" $RUN edit.py --config configs/editors/tiny_instruction.yaml \
    --image assets/example/pictures/01-before.png --instruction "turn the background white" --out first.png

step "own folder: fine-tuning, 100 steps (docs/finetune.md)" $RUN train.py fit --config configs/finetune/tiny.yaml \
    --data.init_args.source assets/example/pictures --data.init_args.table assets/example/edits.csv --name mine
step "own folder: first fine-tuned edit" $RUN edit.py --checkpoint runs/mine --image assets/example/pictures/05-before.png \
    --instruction "give the cross a black outline" \
    --response "an image of a large blue circle at the bottom and a large purple cross with a black outline at the bottom right, on a beige background." \
    --out mine.png

step "a paper's table, ours beside it (docs/reproduce.md)" $RUN -m experiments.beside_paper
step "its claims judged from the same evidence" $RUN -m experiments.claims --root docs/evidence
step "a table from committed measurements" $RUN bench/learning.py configs/results/learning/base.yaml \
    configs/results/learning/adamw.yaml --out docs/learning
rm "$FOLDER.times"
echo "pictures: $FOLDER/first.png $FOLDER/mine.png"
