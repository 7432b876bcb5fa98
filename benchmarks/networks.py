"""MiniLM's sentence encoder by low rank: cosine to the original's embeddings, certificate and speed at three budgets."""

from __future__ import annotations

import torch

from benchmarks.harness import Table, interleaved, once, seconds
from nearly.core.certificate import Asked
from nearly.core.certify import measure, predict, state
from nearly.core.supply import Supply
from nearly.core.target import Pairs
from nearly.networks import FisherWeightedLayers, KroneckerWeightedLayers, TruncatedLayers, WhitenedLayers
from nearly.problems import sentence_encoder

METHODS = (TruncatedLayers, FisherWeightedLayers, WhitenedLayers, KroneckerWeightedLayers)
PERCENTS = (75, 50, 25)
OTHER_TOPICS = [
    "The soup was too salty for the guests.",
    "She walked along the beach at sunset.",
    "The striker scored twice in the final minutes.",
    "Interest rates rose again last quarter.",
    "The patient was given antibiotics for the infection.",
    "He painted the old barn a deep shade of red.",
    "Our train to Vienna was delayed by snow.",
    "The court dismissed the appeal on Thursday.",
    "Two dogs played in the muddy garden.",
    "The orchestra rehearsed the symphony all night.",
    "Farmers expect a poor wheat harvest this year.",
    "The volcano erupted after decades of silence.",
    "My grandmother bakes bread every Sunday.",
    "The senator refused to answer the question.",
    "A thick fog covered the harbor in the morning.",
    "The novel describes life in a small mining town.",
    "Children ran through the sprinklers in July.",
    "The museum bought a rare Dutch landscape.",
    "They argued about the price of the house.",
    "The runner broke her ankle at the last hurdle.",
]
BATCHES = ((32, 64), (32, 24), (1, 24))  # rows and tokens, none of them padding


def run() -> list[Table]:
    """Measure on one thread."""
    torch.set_num_threads(1)
    target = sentence_encoder()
    assert target.rows is not None
    rows, fitting, certifying = target.rows.pairs.inputs, target.rows.fitting, target.rows.certifying
    truth = target(rows[certifying])
    tested = Pairs(rows[certifying], truth)
    batches = [torch.randint(999, 30000, shape, generator=torch.Generator().manual_seed(0)) for shape in BATCHES]
    others = sentence_encoder(OTHER_TOPICS, OTHER_TOPICS)
    assert others.rows is not None
    strange = others.rows.pairs.inputs[: len(OTHER_TOPICS)]
    supply = Supply(target, 0)
    shown = ", ".join(f"{n} x {length}" for n, length in BATCHES)
    table = Table(
        "MiniLM sentence encoder, 36 linear layers of 10.6 million weights",
        f"{len(fitting)} docstring sentences of Python's standard library to fit and {len(certifying)} of other modules to test. "
        "Cosine of the embeddings with the original's, mean and 5% quantile; certificate: on a further sentence from the testing "
        "modules, 1 - cosine is at most this with probability 95% (confidence 99% for each line alone); times as fast as the "
        f"original, rows x tokens {shown}, one thread.",
        ["method", "weights kept", "mean cosine", "5% quantile", "certificate", "times as fast", "build"],
    )
    for method in METHODS:
        for percent in PERCENTS:
            fit = method(percent=percent)
            build, surrogate = once(lambda fit=fit: fit.fit(target, supply=supply))
            # As `nearly.fit` certifies; `nearly.certify` would refuse the worst of them here, whose answers to other modules'
            # sentences look like none that they were fitted on.
            errors, _ = measure(surrogate, target, tested)
            certificate = state(surrogate, target, tested, errors, None, Asked(0.95, 0.99))
            cosines = 1 - target.error(truth, predict(surrogate, rows[certifying]))
            model, ratios = surrogate.model, []
            for batch in batches:
                taken = interleaved(
                    {"ours": lambda m=model, x=batch: predict_plain(m, x), "original": lambda x=batch: target(x)},
                    repeats=11 if len(batch) > 1 else 51,
                )
                ratios.append(taken["original"] / taken["ours"])
            table.rows.append(
                [
                    fit.id(),
                    f"{percent}%",
                    f"{float(cosines.mean()):.3f}",
                    f"{float(cosines.quantile(0.05)):.3f}",
                    f"{certificate.error:.3f}",
                    ", ".join(f"{ratio:.2f}" for ratio in ratios),
                    seconds(build),
                ]
            )
            if method is KroneckerWeightedLayers:
                known, unknown = (int((~surrogate.contains(ids)).sum()) for ids in (rows[certifying], strange))
                there = 1 - float(target.error(target(strange), predict(surrogate, strange)).mean())
                table.remarks.append(
                    f"{percent}%, weighted from both sides: mean cosine {there:.3f} on {len(strange)} sentences of other topics, "
                    f"{unknown} of which the surrogate refuses as out of its domain, against {known} of the {len(truth)} tested."
                )
    table.remarks.append(
        "Build times: the first budget of a method pays for its pass over the data, the others reuse it."
    )
    return [table]


def predict_plain(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Answers without gradients."""
    with torch.no_grad():
        return model(inputs)
