"""Row 31: learning rates found at width 32 are those of width 256, in a transformer (Lingle, arXiv 2404.05728).

A one-layer decoder of widths 32, 64, 128, 256 (four heads, so that heads widen) on the characters of the Python manual, 60 steps
of Adam on batches of 16 windows of 16, on a grid of rates a factor of 2 apart; the best rate has the least mean of the last ten
losses. Bars: under `maximal_update` and `attention_scale` it moves at most one step over the widths; under the standard
parametrization, with logits over the root of the head's width, it moves two steps or more. The paper's variants are reported by
their shifts: trained gains in the norms, and attention logits over the root. A further bar: at the rate that is best at width 32
the widest network's loss is lower under the parametrization than under the standard one.

Broken variant, run inside: rates of another family, SGD's, given to Adam, move it two steps.
"""

from __future__ import annotations

from claims.optim._stacked import Copies, best_place
from claims.optim._transformer import HEADS, Transformer, batches, next_token_loss, text

from nearly.optim.scaling import attention_scale, maximal_update

WIDTHS, STEPS = (32, 64, 128, 256), 60
RATES = [2.0**k for k in range(-10, -3)]


def sweep(width, *, standard=False, gains=False, root=False, family="adam"):
    """The place of the best rate, and the losses at all rates."""
    stream, vocabulary = text()
    head = width // HEADS
    scale = head**-0.5 if standard or root else attention_scale(head, WIDTHS[0] // HEADS)
    models, groups = [], []
    for rate in RATES:
        model = Transformer(vocabulary, width, scale, gains=gains)
        base = model if standard else Transformer(vocabulary, WIDTHS[0], scale, gains=gains)
        models.append(model)
        groups.append(maximal_update(model, base, family=family, lr=rate).groups)
    losses = Copies(models, groups).train(batches(stream, STEPS, 16), next_token_loss)
    return best_place(losses, 1, tail=10)


def shift(found):
    places = [place for place, _ in found]
    return max(places) - min(places)


def test_best_rate_is_that_of_the_narrow_network(record):
    ours = [sweep(width) for width in WIDTHS]
    standard = [ours[0], *(sweep(width, standard=True) for width in WIDTHS[1:])]  # the same at the base's width
    place = ours[0][0]
    losses = float(ours[-1][1][place]), float(standard[-1][1][place])
    record(
        claim="steps that the best rate moves, width 32 to 256",
        measured=shift(ours),
        baseline=f"standard {shift(standard)}",
    )
    record(claim="loss at width 256, rate best at 32", measured=losses[0], baseline=f"standard {losses[1]:.3g}")
    for name, options in (("gains in the norms", {"gains": True}), ("logits over the root", {"root": True})):
        found = [sweep(width, **options) for width in (WIDTHS[0], WIDTHS[-1])]
        record(claim=f"variant, {name}: steps moved", measured=shift(found), baseline="reported")
    broken = shift([ours[0], sweep(WIDTHS[-1], family="sgd")])
    record(claim="SGD's rates under Adam: steps moved", measured=broken, baseline="bar 1")
    assert shift(ours) <= 1
    assert shift(standard) >= 2
    assert losses[0] < losses[1]
    assert broken > 1
