"""Renders the templates of `launch/`: a run and the machines it gets, as a file that a scheduler takes."""

import importlib.metadata
import importlib.resources
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from spiral.config import Config, UserError, load_config

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:,/@-]*")
SEEDS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
SIGNAL_MARGIN_S = 60
"""Time from the end of a run's grace period to Slurm's time limit, for Ray to end and the job to be requeued."""


def render(template: str, values: dict[str, Any]) -> str:
    """The file `template` of `launch/` with these values. A value that the template lacks is an error."""
    source = importlib.resources.files("spiral_launch").joinpath(template).read_text()
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )  # files for shells and YAML, not for browsers: `quote` and `tojson` escape what they insert
    environment.filters["quote"] = shlex.quote
    return environment.from_string(source).render(values)


def run_values(config: str, overrides: Sequence[str], seeds: str | None, restart: int) -> tuple[Config, dict[str, Any]]:
    """What every template needs to know of a run. Raises UserError for a config that cannot be loaded."""
    loaded = load_config(config, overrides)
    if seeds is not None and not SEEDS.fullmatch(seeds):
        raise UserError(f"--seeds {seeds!r}: expected numbers and ranges, such as 0-9 or 1,2,5")
    path = Path(config)
    group = [f"wandb.group={loaded.run.name}"] if seeds and loaded.wandb.group is None else []
    return loaded, {
        "name": f"spiral-{loaded.run.name}",
        "config": str(path.absolute()) if path.exists() else config,
        "overrides": [*overrides, *group],
        "run_dir": str(loaded.run_dir.absolute()),
        "directory": str(Path.cwd()),
        "bin": str(Path(sys.executable).parent),
        "seeds": seeds or "",
        "restart": restart,
    }


RUN_VOLUME = "/runs"
"""Where the volume with run directories is in a container."""


def kuberay_values(config: str, overrides: Sequence[str], nodes: int, restart: int) -> tuple[Config, dict[str, Any]]:
    """What the template of a RayJob needs to know of a run. Raises UserError for a config that cannot be loaded."""
    loaded = load_config(config, overrides)
    name = f"spiral-{loaded.run.name}".lower().replace("_", "-").replace(".", "-")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", name):
        raise UserError(f"run.name {loaded.run.name!r}: Kubernetes takes up to 40 letters, digits and - only")
    run_dir = f"{RUN_VOLUME}/{loaded.run.name}"
    start = ["train", config, *overrides, f"run.dir={RUN_VOLUME}"]
    run = f"if [ -e {run_dir}/config.yaml ]; then set -- resume {run_dir}; else set -- {shlex.join(start)}; fi"
    script = f'{run}; exec spiral "$@" --nodes={nodes}'
    return loaded, {
        "name": name,
        "entrypoint": f"bash -c {shlex.quote(script)}",
        "ray_version": importlib.metadata.version("ray"),
        "run_volume": RUN_VOLUME,
        "restart": restart,
    }


def ray_up_values(
    config: str, overrides: Sequence[str], hosts: str | None, region: str | None, nodes: int, restart: int
) -> tuple[Config, dict[str, Any]]:
    """What the template of `ray up` needs to know. Raises UserError for machines that are not named."""
    loaded = load_config(config, overrides)
    names = hosts.split(",") if hosts else []
    if bool(names) == bool(region):
        raise UserError("name the machines with --hosts, or a region of AWS with --region")
    for host in names:
        check_plain(hosts=host)
    num_nodes = len(names) or nodes
    start = ["spiral", "train", config, *overrides, f"--nodes={num_nodes}", f"--restart={restart}"]
    return loaded, {
        "name": f"spiral-{loaded.run.name}",
        "hosts": names,
        "region": region or "",
        "nodes": num_nodes,
        "command": f"RAY_ADDRESS=$(hostname -I | cut -d' ' -f1):6379 {shlex.join(start)}",
        "file": loaded.run.dir / f"{loaded.run.name}-cluster.yaml",
    }


def start_ray_cluster(text: str, file: Path, command: str) -> int:
    """Start the cluster of a file, which is written for `ray down`, and a command on its head. Returns an exit code."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    ray = str(Path(sys.executable).with_name("ray"))
    return submit([ray, "up", "--yes", str(file)]) or submit([ray, "exec", "--tmux", str(file), command])


def check_gpus(config: Config, nodes: int, gpus_per_node: int) -> None:
    """Raise UserError if a run needs more GPUs than the machines have."""
    if config.num_gpus > nodes * gpus_per_node:
        raise UserError(
            f"this run needs {config.num_gpus} GPUs (learner: {config.learner.gpus}, generators: "
            f"{config.generators.count} x {config.generators.gpus}), but --nodes {nodes} --gpus-per-node "
            f"{gpus_per_node} are {nodes * gpus_per_node}"
        )


def check_plain(**options: str | None) -> None:
    """Raise UserError for a value that would not stay one word in the file."""
    for name, value in options.items():
        if value is not None and not PLAIN.fullmatch(value):
            raise UserError(f"--{name.replace('_', '-')} {value!r}: expected letters, digits and . _ : , / @ - only")


def submit(command: Sequence[str], text: str | None = None) -> int:
    """Run a command, with `text` on its standard input. Returns its exit code. Raises UserError if it is not here."""
    try:
        return subprocess.run(command, input=text, text=True, check=False).returncode
    except FileNotFoundError as error:
        hint = "run this where it is installed, or look at the file with --dry-run"
        raise UserError(f"{command[0]} is not on this machine; {hint}") from error
