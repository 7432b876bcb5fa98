"""Optimizers on several ranks, each of which has rows of its own, and checkpoints that another number of ranks takes up."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "distributed" / "loops.py"


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_ranks_with_rows_of_their_own_are_as_one_process_with_all(tmp_path):
    for ranks in (2, 1):  # two share five rows unevenly, and one takes them up
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(rank), str(ranks), str(port), str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(ranks)
        ]
        try:
            results = [process.communicate(timeout=200) for process in processes]
        finally:
            for process in processes:
                process.kill()
        for out, err in results:
            assert out.strip() == "done", f"{out}\n{err[-2000:]}"
