#!/usr/bin/env bash
# Rendered by `spiral launch local`: a run on this machine, which resumes by itself if it dies.
set -euo pipefail
cd /shared/work
bin=/venv/bin
for seed in 1 3 4 5; do
run_dir=/shared/work/runs/quickstart-seed"$seed"

if [ -e "$run_dir/config.yaml" ]; then
  command=(resume "$run_dir")
else
  command=(train quickstart wandb.group=quickstart run.dir="$(dirname "$run_dir")" run.name="$(basename "$run_dir")" seed="$seed")
fi
"$bin/spiral" "${command[@]}" --restart=10
done
