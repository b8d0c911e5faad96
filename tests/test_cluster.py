"""cluster.md: its commands and files are such as the launchers take, its table is computed."""

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from torch.distributed.run import config_from_args, get_args_parser

from vlm_utils import __main__ as command_line
from vlm_utils.profiles import REPOSITORY
from vlm_utils.scaling import job
from vlm_utils.scaling.cluster import (
    H100,
    MODELS,
    Cluster,
    Size,
    as_markdown,
    exchange_seconds,
    predict_scaling,
    predict_step,
)

CONFIGS = REPOSITORY / "vlm_utils" / "scaling" / "configs"
PAGE = (REPOSITORY / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^    \S.*\n(?:^     +\S.*\n)*)", PAGE, re.M)
COMMANDS = [re.sub(r"\\\n\s*", " ", block).strip() for block in BLOCKS]


# --- launching ---------------------------------------------------------------------------------

def plan_of(monkeypatch, words: list[str]) -> job.Job:
    """The job that the words after `-m vlm_utils` ask for; a wrong option ends with status 2."""
    seen = []
    monkeypatch.setattr(command_line.sys, "argv", ["vlm_utils", *words])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(job, "run_job", lambda wanted: seen.append(wanted) or 0)
    monkeypatch.setattr("vlm_utils.scaling.launch.start_processes", lambda *arguments: 0)
    assert command_line.main() == 0
    return seen[0] if seen else None


def split_at_module(words: list[str]) -> tuple[list[str], list[str]]:
    """What the launcher is told, and what vlm_utils is told."""
    at = words.index("vlm_utils")
    assert words[at - 1] == "-m"
    return words[:at + 1], words[at + 1:]


def launched_by_torchrun(words: list[str]):
    assert words[:3] == ["python", "-m", "torch.distributed.run"]
    return get_args_parser().parse_args(words[3:])


def test_the_page_has_the_commands_that_are_looked_at():
    kinds = [command.split()[0] for command in COMMANDS]
    assert (kinds.count("python"), kinds.count("accelerate"), kinds.count("sbatch")) == (4, 2, 1)
    assert len(kinds) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_page_is_understood(command, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command)
    if words[0] == "sbatch":
        assert Path(words[1]).is_file()
        return
    launcher, own = split_at_module(words)
    monkeypatch.chdir(tmp_path)
    plan_of(monkeypatch, own)
    if words[0] == "accelerate":
        monkeypatch.chdir(REPOSITORY)
        args = launch_command_parser().parse_args([*launcher[2:], *own])
        assert args.training_script == "vlm_utils" and args.module
        args, _, _ = _validate_launch_command(args)
        machines = 2 if "several" in args.config_file else 1
        assert (args.num_machines, args.num_processes) == (machines, 8 * machines)
        assert args.multi_gpu and (machines == 1 or args.main_process_ip == "first-machine")
    elif "torch.distributed.run" in launcher:
        args = launched_by_torchrun([*launcher, *own])
        config, _, _ = config_from_args(args)
        assert config.nproc_per_node == int(args.nproc_per_node)
        assert config.max_nodes == int(args.nnodes.split(":")[-1])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path):
    config = load_config_from_file(str(path))       # refuses a key that it does not know
    assert config.num_processes in (2, 8, 16) and config.mixed_precision == "no"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["use_cpu"] == (content["distributed_type"] == "MULTI_CPU")


def test_a_key_that_accelerate_does_not_know_would_be_found(tmp_path):
    path = tmp_path / "wrong.yaml"
    text = (CONFIGS / "one_machine.yaml").read_text(encoding="utf-8")
    path.write_text(text + "\nnumber_of_processes: 8\n")
    with pytest.raises(ValueError, match="number_of_processes"):
        load_config_from_file(str(path))


def test_the_file_for_slurm_is_a_script_whose_command_is_understood(monkeypatch, tmp_path):
    path = CONFIGS / "train.sbatch"
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    text = path.read_text(encoding="utf-8")
    command = re.search(r"^srun (?:.*\\\n)*.*", text, re.M)[0].replace("\\\n", " ")
    told = {"$SLURM_NNODES": "2", "$head": "first", "$SLURM_JOB_ID": "7"}
    for name, value in told.items():
        command = command.replace(name, value)
    words = [word for word in shlex.split(command.removesuffix(" &"))[1:]
             if not word.startswith("--kill-on-bad")]
    launcher, own = split_at_module(words)
    args = launched_by_torchrun([*launcher, *own])
    assert (args.nnodes, args.rdzv_endpoint, args.rdzv_id) == ("2", "first:29500", "7")
    monkeypatch.chdir(tmp_path)
    wanted = plan_of(monkeypatch, own)
    assert wanted.settings.batch_size % 16 == 0 and wanted.profile.name == "full"
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, re.M))
    assert options["ntasks-per-node"] == "1" and options["gpus-per-node"] == args.nproc_per_node
    assert options["signal"].startswith("B:TERM@") and "requeue" in options


@pytest.mark.skipif(os.name == "nt", reason="runs a script for bash")
@pytest.mark.parametrize(("ends", "told", "status", "requeued"), [
    ("exit 0", False, 0, False),            # done
    ("exit 1", False, 1, False),            # an error is not tried again and again
    ("while true; do sleep 0.05; done", True, 143, True)])   # its time is over
def test_the_file_for_slurm_has_the_job_started_again_after_its_time_alone(
        tmp_path, ends, told, status, requeued):
    """A trap: --requeue does not do that, and a signal to the steps alone ends the script first."""
    log = tmp_path / "log"
    programs = {"srun": f"trap 'echo saved >> {log}; exit 143' TERM\necho started >> {log}\n{ends}",
                "scontrol": f'echo "$@" >> {log}'}
    for name, program in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{program}\n")
        (tmp_path / name).chmod(0o755)
    running = subprocess.Popen(
        ["bash", str(CONFIGS / "train.sbatch")], env=os.environ | {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7",
            "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "first,second"})
    while told and running.poll() is None and not (log.exists() and "started" in log.read_text()):
        time.sleep(0.01)
    if told:
        running.terminate()
    assert running.wait(60) == status
    said = log.read_text().splitlines()
    assert said[0] == "show hostnames first,second" and ("requeue 7" in said) == requeued
    assert ("saved" in said) == told
    if told:
        assert said.index("saved") < said.index("requeue 7")


# --- what is computed ----------------------------------------------------------------------------

def test_the_table_of_the_page_is_the_functions():
    assert as_markdown(predict_scaling()) in PAGE
    assert "**Computed, not measured**" in PAGE


def test_one_gpu_has_nobody_to_tell():
    size = MODELS["SmolLM-135M"]
    alone = predict_step(size, 1, 1000)
    assert alone["communication"] == 0 and alone["efficiency"] == 1
    assert alone["compute"] == pytest.approx(6 * 135e6 * 1000 / (989e12 * 0.4))


def test_an_exchange_by_hand():
    """2 GPUs, 1 GB of gradients: half of it in each of two passes, at 10 GB/s: 0.1 s."""
    cluster = Cluster(inside=10e9, latency=0)
    assert exchange_seconds(Size(0.25e9, 10), 2, False, cluster) == pytest.approx(0.1)
    assert exchange_seconds(Size(0.25e9, 10), 2, True, cluster) == pytest.approx(0.15)
    # 2 machines of 2: as before, and half of each GPU's half to the other machine, at 1 GB/s.
    two = Cluster(gpus_per_machine=2, inside=10e9, between=1e9, latency=0)
    assert exchange_seconds(Size(0.25e9, 10), 4, False, two) == pytest.approx(0.1 + 2 * 0.25)
    # 11 units of a sharded model, 3 passes, 2 steps along the tree of 4.
    slow = Cluster(gpus_per_machine=4, inside=1e30, latency=1e-3)
    assert exchange_seconds(Size(0.25e9, 10), 4, True, slow) == pytest.approx(3 * 11 * 2 * 1e-3)


def test_with_enough_tokens_nothing_is_waited_for_and_with_half_of_them_something():
    size = MODELS["Llama-2-7B"]
    enough = predict_step(size, 64, 1)["enough_tokens"]
    assert predict_step(size, 64, enough)["efficiency"] == pytest.approx(1)
    assert predict_step(size, 64, enough / 2)["efficiency"] < 0.9


def test_shards_fit_where_copies_do_not():
    copies, shards = (predict_step(MODELS["Llama-2-7B"], 8, 8192, sharded, H100)
                      for sharded in (False, True))
    assert not copies["fits"] and shards["fits"]
    assert copies["gigabytes"] == pytest.approx(8 * shards["gigabytes"]) == pytest.approx(107.84)
