#!/usr/bin/env bash
# Rendered by `spiral launch local`: a run on this machine, which resumes by itself if it dies.
set -euo pipefail
cd {{ directory | quote }}
bin={{ bin | quote }}
{% if seeds %}
for seed in {{ seed_list }}; do
{% endif %}
run_dir={{ run_dir | quote }}{% if seeds %}-seed"$seed"{% endif %}


if [ -e "$run_dir/config.yaml" ]; then
  command=(resume "$run_dir")
else
  command=(train {{ config | quote }}{% for override in overrides %} {{ override | quote }}{% endfor %} run.dir="$(dirname "$run_dir")" run.name="$(basename "$run_dir")"{% if seeds %} seed="$seed"{% endif %})
fi
"$bin/spiral" "${command[@]}" --restart={{ restart }}
{% if seeds %}
done
{% endif %}
