"""Every optimizer takes the same steps on several ranks as on one: with replicas, sharded parameters and rows of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nearly.optim._matrices import each_matrix

SCRIPTS = Path(__file__).parent / "distributed"
distributed = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")


def run_ranks(script, count, *arguments):
    """Run a script once per rank, at the same time; each shall say that it is done, and nothing else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error::FutureWarning", str(SCRIPTS / script)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(count), str(port), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(count)
    ]
    try:
        results = [rank.communicate(timeout=200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for out, err in results:
        assert out.strip() == "done", f"{out}\n{err[-2000:]}"


@distributed
def test_ranks_take_the_steps_of_one_process():
    run_ranks("steps.py", 2)


@distributed
def test_ranks_with_rows_of_their_own_are_as_one_process_with_all(tmp_path):
    for count in (2, 1):  # two share five rows unevenly, and one takes up their checkpoints
        run_ranks("loops.py", count, tmp_path)


def test_each_rank_works_on_its_share_alone(monkeypatch):
    gathered = {}

    class Ranks:
        def __init__(self, rank):
            self._rank = rank

        def rank(self):
            return self._rank

        def size(self):
            return 2

    def collect(out, part, group):
        gathered[group.rank()] = part
        out.zero_()

    monkeypatch.setattr("nearly.optim._matrices._all_gather", lambda: collect)
    given = [torch.full((2, 2), float(i)) for i in range(5)]
    for rank in range(2):
        each_matrix(lambda batch: batch + 1, given, process_group=Ranks(rank))
    assert gathered[0][:, 0, 0].tolist() == [1, 2, 3]
    assert gathered[1][:, 0, 0].tolist() == [4, 5, 5]
