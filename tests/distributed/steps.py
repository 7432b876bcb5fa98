"""One rank of a training by every optimizer: replicated with its matrices shared out, and with sharded parameters.

Run as `python steps.py RANK RANKS PORT`; prints one line per failure, and "done".
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from nearly.core.errors import BadInput
from nearly.core.registry import optimizer_cards, optimizer_class
from nearly.optim.step import OF_CLOSURES, WITHOUT_BACKWARD

STEPS = 3
ROWS = torch.randn(16, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made():
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return module


def trained(module, member, **options):
    card = member.card
    if "layers" in card["needs"]:
        options["module"] = module
    optimizer = member(module.named_parameters(), **card["settings"], **options)
    graph = WITHOUT_BACKWARD & set(card["needs"])
    closes = OF_CLOSURES & set(card["needs"])
    for _ in range(STEPS):

        def closure():
            optimizer.zero_grad()
            loss = (module(ROWS) - 1).square().mean()
            if not graph:
                loss.backward()
            return loss

        if closes:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]


def checked(name, what, make):
    member = optimizer_class(name)
    alone = trained(made(), member)
    try:
        found = make(member)
    except Exception as error:  # told, whatever it is
        print(f"{name} {what}: {type(error).__name__}: {error}".splitlines()[0])
        return
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(alone, found, strict=True))
    if not gap <= 1e-9:
        print(f"{name} {what}: parameters are {gap:.2g} off")


def refused(name, make, words="sharded"):
    try:
        make(optimizer_class(name))
        print(f"{name} sharded: not refused")
    except BadInput as error:
        if words not in str(error):
            print(f"{name} sharded: refused as {error}")


def main():
    rank, ranks, port = map(int, sys.argv[1:4])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))

    def sharded(member):
        module = made()
        for layer in module:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return trained(module, member)

    def spoiled(member):
        module = made()
        fully_shard(module, mesh=mesh)
        optimizer = member(module.named_parameters())
        module(ROWS * (torch.nan if rank else 1.0)).sum().backward()
        optimizer.step()

    refused("optim.AdamW", spoiled, "gradient of")
    cards = optimizer_cards()
    for name in sys.argv[4:] or cards:
        if cards[name].get("kind", "training") == "training":
            checked(name, "replicated", lambda member: trained(made(), member, process_group=dist.group.WORLD))
            if WITHOUT_BACKWARD & set(cards[name]["needs"]):
                refused(name, sharded)
            else:
                checked(name, "sharded", sharded)
    dist.barrier()
    dist.destroy_process_group()
    print("done", flush=True)
    os._exit(0)  # threads of gloo may outlive the interpreter, and abort it


if __name__ == "__main__":
    main()
