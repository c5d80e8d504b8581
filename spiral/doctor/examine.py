"""Examines the machines of a run: this one, or every node of the cluster that RAY_ADDRESS names."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spiral import preflight
from spiral.config import Config, UserError
from spiral.doctor.cluster_checks import check_cluster
from spiral.doctor.facts import Facts, gather
from spiral.doctor.findings import Finding, fault, grouped, note, ok
from spiral.doctor.machine_checks import check_machines
from spiral.doctor.needs import Needs
from spiral.doctor.nodes import NodeReport, Places, ask_nodes
from spiral.models import SMOLLM2, check_available


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings, and the reports they are from."""

    findings: Sequence[Finding]
    reports: Sequence[NodeReport]


def examine(config: Config | None, limit_s: float) -> Diagnosis:
    """Examine the machines for this run, or for any; a node has `limit_s` seconds for each answer.

    Starts nothing that stays, and writes nothing. Raises UserError if the cluster cannot be joined.
    """
    about_config = list(check_config(config)) if config else []  # imports plug-ins, which are sent to other nodes
    needs = Needs.of(config)
    question = needs.question(config)
    ours = gather(question)
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local") and "ray" in ours.versions:
        reports, places = ask_nodes(config, question, limit_s)
    else:
        reports, places = [NodeReport(name=ours.hostname, facts=ours)], _places_here(config, ours.hostname)
    asked = [(report, report.facts) for report in reports if report.facts is not None]
    findings = [
        *check_machines(config, needs, asked),
        *check_cluster(config, needs, reports, asked, places),
        *(about_config if config else [_smollm2()]),
        *check_wandb(config, ours),
    ]
    return Diagnosis(grouped(findings), reports)


def check_config(config: Config) -> Iterator[Finding]:
    """What `spiral train` would refuse of a config, whatever the machines."""
    for what, check in preflight.CONFIG_CHECKS.items():
        try:
            check(config)
        except UserError as error:
            yield fault(what, "refused", str(error))
        except ValueError:  # there is no such game, which has been found
            continue
        else:
            yield ok(what, "sound")
    if config.run_dir.exists():
        yield note("run.name", f"{config.run_dir} exists", f"spiral resume {config.run_dir}, or another run.name")


def check_wandb(config: Config | None, ours: Facts) -> Iterator[Finding]:
    """Whether this machine, from which rows are uploaded, can do so."""
    if config is not None and "wandb" not in config.monitor.sinks:
        return
    what, mode = "W&B", str(config.wandb.mode) if config else "auto"
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if ours.has_wandb_key else "offline")
    key = "an API key" if ours.has_wandb_key else "no API key"
    if "wandb" not in ours.versions:
        yield fault(what, "missing", "make venv")
    elif mode == "online" and not ours.has_wandb_key:
        yield fault(what, f"{mode}, but {key}", "wandb login, export WANDB_API_KEY, or wandb.mode=offline")
    else:
        yield ok(what, f"{mode}; {key}")


def _smollm2() -> Finding:
    try:
        check_available(SMOLLM2)
    except UserError as error:
        return note(SMOLLM2, "missing", str(error).rsplit("needs its package: ", 1)[-1])
    return ok(SMOLLM2, "installed")


def _places_here(config: Config | None, name: str) -> Places:
    """Where the actors are without a cluster."""
    if config is None:
        return Places()
    try:
        preflight.check_gpus(config, with_learner=True)
    except UserError as error:
        return Places(error=str(error))
    return Places(learner=Counter({name: config.learner.ranks}), generators=Counter({name: config.generators.count}))
