#!/bin/sh
# A stranger's path, timed: clone to first picture, own folder to first fine-tuned edit, a paper's claim to our table.
# Usage: bench/stranger.sh FOLDER [REPOSITORY] (a new folder; default: the repository that this file is in). Set-up needs a
# package registry and 6 GB; PIP_ARGS is passed to pip. Prints one line a step: seconds on the clock, and what was done.
set -eu
FOLDER=${1:?usage: bench/stranger.sh FOLDER [REPOSITORY]}
REPOSITORY=${2:-$(cd "$(dirname "$0")/.." && pwd)}

step() {
    what=$1
    shift
    start=$(date +%s)
    "$@" >"$FOLDER.log" 2>&1 || { echo "failed: $what; its output:" && cat "$FOLDER.log" && exit 1; }
    echo "$(($(date +%s) - start)) s  $what"
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
    --response "a large purple cross with a black outline" --out mine.png

step "a paper's claims from committed evidence (docs/reproduce.md)" $RUN -m experiments.claims --root docs/evidence
step "a table from committed measurements" $RUN bench/learning.py configs/results/learning/base.yaml \
    configs/results/learning/adamw.yaml --out docs/learning
echo "pictures: $FOLDER/first.png $FOLDER/mine.png"
