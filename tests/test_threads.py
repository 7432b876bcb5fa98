"""Batches of decompositions on several threads, against torch's own."""

import threading

import pytest
import torch

from nearly.linalg import threads


@pytest.fixture(autouse=True)
def three(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "WORTH_SHARING", 1)
    yield
    torch.set_num_threads(before)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def workers(monkeypatch):
    """Names of the threads that decompose, as they do."""
    seen, plain = [], torch.linalg.eigh

    def noted(x):
        if len(x):  # of none, the shapes of results are found
            seen.append(threading.current_thread().name)
        return plain(x)

    monkeypatch.setattr(torch.linalg, "eigh", noted)
    return seen


@pytest.mark.parametrize("batch", [(3,), (7,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_parts_are_the_batch(batch, dtype):
    x = drawn(*batch, 6, 4, dtype=dtype)
    for found, wanted in zip(threads.svd(x), torch.linalg.svd(x, full_matrices=False), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        assert torch.allclose(found, wanted)
    gram = x.mH @ x
    values, vectors = threads.eigh(gram)
    assert torch.allclose(vectors @ (values[..., None] * vectors.mH), gram, atol=1e-4)


def test_each_thread_has_its_part_and_one_thread_of_its_own(monkeypatch):
    seen = workers(monkeypatch)
    threads.eigh(torch.eye(2).expand(9, 2, 2))
    assert len(seen) == 3
    assert all(name.startswith("nearly") for name in seen)
    pool = threads._pool(0, 3)
    assert list(pool.map(lambda _: torch.get_num_threads(), range(6))) == [1] * 6
    others = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert others == [3, 3]


def test_what_belongs_to_the_caller_stays_there(monkeypatch):
    seen = workers(monkeypatch)
    x = drawn(5, 3, 3)
    x = x @ x.mT
    leaf = x.clone().requires_grad_()
    threads.eigh(leaf)[0].sum().backward()
    assert torch.allclose(leaf.grad, torch.eye(3, dtype=x.dtype).expand(5, 3, 3))
    torch.func.vmap(threads.eigh)(x[:, None].expand(5, 4, 3, 3))
    threads.eigh(x[:2])  # fewer than threads
    threads.eigh(x[0])
    assert set(seen) == {threading.current_thread().name}
    with torch.no_grad():
        assert not threads.eigh(leaf)[1].requires_grad
    assert len(set(seen)) > 1


def test_errors_come_through():
    x = torch.eye(3).repeat(6, 1, 1)
    x[4] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        threads.svd(x)
