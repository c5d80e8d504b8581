"""`spiral launch`: run on a cluster, through the scheduler that is there."""

from collections.abc import Callable
from typing import Annotated

import typer

from spiral.cli.training import Overrides

launch = typer.Typer(
    help="Submit a run to a cluster. Every command shows the file that it submits with --dry-run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConfigName = Annotated[str, typer.Argument(help="A YAML file, or a packaged config such as quickstart")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the rendered file and submit nothing")]
Seeds = Annotated[
    str | None, typer.Option(metavar="0-9", help="One run per seed, in run directories NAME-seed0, NAME-seed1, ...")
]
RestartTimes = Annotated[int, typer.Option(min=0, metavar="N", help="Restarts of a run that dies, within one job")]
Nodes = Annotated[int, typer.Option(min=1, metavar="N", help="Machines")]
GpusPerNode = Annotated[int, typer.Option(min=0, metavar="G", help="GPUs of each machine")]


@launch.command()
def slurm(
    config: ConfigName,
    overrides: Overrides = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 0,
    cpus_per_node: Annotated[int, typer.Option(min=0, metavar="C", help="Cores of each machine; 0: the default")] = 0,
    time: Annotated[str, typer.Option(help="Time limit of a job; the run goes on in the next one")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="Partition")] = None,
    account: Annotated[str | None, typer.Option(help="Account")] = None,
    seeds: Seeds = None,
    interface: Annotated[
        str | None, typer.Option(metavar="ib0", help="Network interface between the machines; default: the first")
    ] = None,
    restart: RestartTimes = 3,
    requeues: Annotated[
        int, typer.Option(min=0, metavar="N", help="Times that the job may go back into the queue, whatever the reason")
    ] = 50,
    dry_run: DryRun = False,
) -> None:
    """Slurm: Ray over the nodes of a job, which puts itself back into the queue before its time limit.

    Checkout, environment and run directory have to be on a filesystem that all nodes share. The environment of this
    command, such as WANDB_API_KEY, is passed on by sbatch and is not in the file.
    """
    from spiral.launch import SIGNAL_MARGIN_S, check_gpus, check_plain, render, run_values, submit

    loaded, values = run_values(config, overrides or [], seeds, restart)
    check_gpus(loaded, nodes, gpus_per_node)
    check_plain(time=time, partition=partition, account=account, interface=interface)
    addresses = f"ip -4 -o addr show dev {interface} | awk '{{print $4}}' | cut -d/ -f1" if interface else "hostname -I"
    values |= {
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "cpus_per_node": cpus_per_node,
        "requeues": requeues,
        "time": time,
        "partition": partition or "",
        "account": account or "",
        "log": f"{values['run_dir']}-%A_%a.log" if seeds else f"{values['run_dir']}-%j.log",
        "signal_s": int(loaded.checkpoint.grace_s) + SIGNAL_MARGIN_S,
        "own_address": f'{addresses} | tr " " "\\n" | grep -m 1 "[.]"',
    }
    text = render("slurm.sbatch", values)
    if not dry_run:
        loaded.run.dir.mkdir(parents=True, exist_ok=True)  # for the log
    _show_or(dry_run, text, lambda: submit(["sbatch"], text))


@launch.command()
def kuberay(
    config: ConfigName,
    overrides: Overrides = None,
    image: Annotated[str, typer.Option(help="Container image with SPIRAL in it, by a tag or digest that stays")] = "",
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 0,
    cpus_per_node: Annotated[int, typer.Option(min=1, metavar="C", help="Cores of each pod")] = 8,
    memory_per_node: Annotated[str, typer.Option(metavar="64Gi", help="Memory of each pod")] = "64Gi",
    shared_memory: Annotated[
        str, typer.Option(metavar="16Gi", help="/dev/shm of each pod, part of its memory")
    ] = "16Gi",
    volume_claim: Annotated[str, typer.Option(help="Claim of the volume with the run directories")] = "spiral-runs",
    secret: Annotated[str, typer.Option(help="Secret whose keys, such as WANDB_API_KEY, become variables")] = "spiral",
    restart: RestartTimes = 3,
    dry_run: DryRun = False,
) -> None:
    """Kubernetes with KubeRay: a RayJob, which is tried again when the run fails.

    The config is read in the container: name a packaged one, or a file of the image. Run directories are on the volume.
    """
    from spiral.launch import check_gpus, check_plain, kuberay_values, render, submit

    loaded, values = kuberay_values(config, overrides or [], nodes, restart)
    check_gpus(loaded, nodes, gpus_per_node)
    check_plain(image=image, memory_per_node=memory_per_node, volume_claim=volume_claim, secret=secret)
    values |= {
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "cpus_per_node": cpus_per_node,
        "memory_per_node": memory_per_node,
        "shared_memory": shared_memory,
        "image": image,
        "volume_claim": volume_claim,
        "secret": secret,
    }
    text = render("rayjob.yaml", values)
    _show_or(dry_run, text, lambda: submit(["kubectl", "create", "-f", "-"], text))


@launch.command(name="ray-up")
def ray_up(
    config: ConfigName,
    overrides: Overrides = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="HEAD,WORKER,...", help="Machines that are there, by address, over SSH")
    ] = None,
    region: Annotated[str | None, typer.Option(metavar="us-east-1", help="Without --hosts: region of AWS")] = None,
    instance_type: Annotated[str, typer.Option(help="Instances of AWS")] = "p5.48xlarge",
    disk_gb: Annotated[int, typer.Option(min=50, help="Disk of an instance of AWS, in GB")] = 500,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = 0,
    ssh_user: Annotated[str, typer.Option(help="User on the machines")] = "ubuntu",
    image: Annotated[str | None, typer.Option(help="Container image; without one SPIRAL is on the machines")] = None,
    shared_memory: Annotated[str, typer.Option(metavar="16g", help="/dev/shm of a container")] = "16g",
    restart: RestartTimes = 3,
    dry_run: DryRun = False,
) -> None:
    """Machines over SSH, or AWS, with Ray's cluster launcher: starts the cluster, and the run on its head in tmux.

    The config is read on the head: name a packaged one, or a file that is there. The cluster goes on when the run is
    done: end it with `ray down FILE`.
    """
    from spiral.launch import check_gpus, check_plain, ray_up_values, render, start_ray_cluster

    loaded, values = ray_up_values(config, overrides or [], hosts, region, nodes, restart)
    check_gpus(loaded, values["nodes"], gpus_per_node)
    check_plain(region=region, instance_type=instance_type, ssh_user=ssh_user, image=image, shared_memory=shared_memory)
    values |= {
        "instance_type": instance_type,
        "disk_gb": disk_gb,
        "ssh_user": ssh_user,
        "image": image or "",
        "shared_memory": shared_memory,
    }
    text = render("ray-up.yaml", values)
    _show_or(dry_run, text, lambda: start_ray_cluster(text, values["file"], values["command"]))


@launch.command()
def local(
    config: ConfigName,
    overrides: Overrides = None,
    seeds: Seeds = None,
    restart: RestartTimes = 10,
    dry_run: DryRun = False,
) -> None:
    """This machine: the run, restarted if it dies; with --seeds one run after another."""
    from spiral.launch import render, run_values, submit

    _, values = run_values(config, overrides or [], seeds, restart)
    ranges = [part.split("-") for part in values["seeds"].split(",") if part]
    numbers = [str(n) for first, *last in ranges for n in range(int(first), int((last or [first])[0]) + 1)]
    text = render("local.sh", values | {"seed_list": " ".join(numbers)})
    _show_or(dry_run, text, lambda: submit(["bash", "-c", text]))


def _show_or(dry_run: bool, text: str, submit: Callable[[], int]) -> None:
    """Print the rendered file; or submit it, and exit with the exit code of that."""
    if dry_run:
        typer.echo(text, nl=False)
    else:
        raise typer.Exit(submit())
