#!/usr/bin/env bash
# Rendered by `spiral launch local`: a run on this machine, which resumes by itself if it dies.
set -euo pipefail
cd /shared/work
bin=/venv/bin
run_dir=/shared/work/runs/quickstart

if [ -e "$run_dir/config.yaml" ]; then
  command=(resume "$run_dir")
else
  command=(train quickstart steps=20 run.dir="$(dirname "$run_dir")" run.name="$(basename "$run_dir")")
fi
"$bin/spiral" "${command[@]}" --restart=10
