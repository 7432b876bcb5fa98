"""One rank of trainings as people run them on several: own rows for each, and checkpoints that other numbers of ranks take up.

Run as `python loops.py RANK RANKS PORT FOLDER`: two ranks write checkpoints to the folder, any other number takes them up. Prints
one line per failure, and "done".
"""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from steps import made
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from nearly.optim import (
    KFAC,
    PSGD,
    AdaGradNorm,
    AdaHessian,
    AdamW,
    Fogzo,
    GradientRegularizedNewton,
    MomentumPolyak,
    Muon,
    Optimizer,
    StochasticModelBuilding,
    ZerothOrder,
)

ROWS = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ON_ROWS_OF_THEIR_OWN = [
    KFAC, PSGD, AdaHessian, Fogzo, GradientRegularizedNewton, MomentumPolyak, StochasticModelBuilding, ZerothOrder,
]  # fmt: skip
SHARDED = [AdamW, Muon, KFAC, AdaGradNorm]


def optimizer_of(member, module, **options) -> Optimizer:
    if "layers" in member.card["needs"]:
        options["module"] = module
    return member(module.named_parameters(), **member.card["settings"], **options)


def trained(optimizer, model, rows=slice(None), steps=4):
    """Closures that only return the loss; `backward` is called where the member asks for no closure, as for sharded parameters."""
    for _ in range(steps):
        optimizer.zero_grad()

        def closure():
            return (model(ROWS[rows]) - TARGETS[rows]).square().mean()

        if isinstance(next(model.parameters()), DTensor):
            closure().backward()
            optimizer.step()
        else:
            optimizer.step(closure)


def compare(what, module, expected, most=1e-9):
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(whole, expected.parameters(), strict=True))
    if not gap <= most:
        print(f"{what}: parameters are {gap:.2g} off")


def alone(member, steps=4):
    module = made()
    trained(optimizer_of(member, module), module, steps=steps)
    return module


def sharded(mesh):
    module = made()
    for layer in module:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def replicate(rank, ranks):
    mine = slice(rank * len(ROWS) // ranks, (rank + 1) * len(ROWS) // ranks)
    for member in ON_ROWS_OF_THEIR_OWN:
        module = made()
        model = DistributedDataParallel(module)
        trained(optimizer_of(member, module, process_group=dist.group.WORLD), model, mine)
        compare(f"{member.__name__} on rows of its own", module, alone(member))
    module = made()
    trained(optimizer_of(AdamW, module), DistributedDataParallel(module), mine)
    compare("AdamW without a group", module, alone(AdamW))


def shard_with_copies(rank, ranks):
    mesh = init_device_mesh("cpu", (1, ranks), mesh_dim_names=("copies", "shards"))
    mine = slice(rank * len(ROWS) // ranks, (rank + 1) * len(ROWS) // ranks)
    module = sharded(mesh)
    trained(optimizer_of(KFAC, module), module, mine)
    compare("KFAC on copies of shards", module, alone(KFAC))


def write(folder, mesh):
    for member in SHARDED:
        module = sharded(mesh)
        optimizer = optimizer_of(member, module)
        trained(optimizer, module, steps=2)
        model_state, state = get_state_dict(module, optimizer)
        dcp.save({"model": model_state, "optimizer": state}, checkpoint_id=f"{folder}/{member.__name__}")


def take_up(folder, mesh):
    for member in SHARDED:
        module = sharded(mesh)
        optimizer = optimizer_of(member, module)
        model_state, state = get_state_dict(module, optimizer)
        kept = {"model": model_state, "optimizer": state}
        dcp.load(kept, checkpoint_id=f"{folder}/{member.__name__}")
        set_state_dict(module, optimizer, model_state_dict=kept["model"], optim_state_dict=kept["optimizer"])
        trained(optimizer, module, steps=2)
        compare(f"{member.__name__} taken up", module, alone(member))


def main():
    rank, ranks, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    if ranks == 2:
        replicate(rank, ranks)
        write(folder, mesh)
        shard_with_copies(rank, ranks)
    else:
        take_up(folder, mesh)
    dist.barrier()
    print("done", flush=True)
    os._exit(0)  # threads of gloo may outlive the interpreter, and abort it


if __name__ == "__main__":
    main()
