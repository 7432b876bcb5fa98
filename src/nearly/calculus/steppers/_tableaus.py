"""Coefficients of embedded explicit Runge-Kutta pairs whose last stage is the first of the next step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Tableau(NamedTuple):
    """A pair: the step uses the row of `stages` that ends it, its error is measured by `error`.

    Attributes:
        order: of the solution that is carried on.
        nodes: the times of the stages, in steps.
        stages: for every stage but the first, the weights of those before it; the last row gives the new state.
        error: weights of the solution less those of the embedded one.
        dense: for every stage the coefficients of `x, x^2, ...`: its weight in the state after a part x of the step.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]


TABLEAUS = {
    # Tsitouras 2011, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Computers and
    # Mathematics with Applications 62, doi:10.1016/j.camwa.2011.06.002: the pair and, multiplied out, its interpolant.
    "tsit5": Tableau(
        order=5,
        nodes=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
        stages=(
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
            (
                0.09646076681806523,
                0.01,
                0.4798896504144996,
                1.379008574103742,
                -3.2900695154360807,
                2.324710524099774,
            ),
        ),
        error=(
            0.001780011052225777,
            0.000816434459656747,
            -0.007880878010261995,
            0.1447110071732629,
            -0.5823571654525552,
            0.45808210592918697,
            -1 / 66,
        ),
        dense=(
            (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
            (0.0, 0.1317, -0.2234, 0.1017),
            (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
            (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
            (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
            (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
            (0.0, 1.5, -4.0, 2.5),
        ),
    ),
    # Dormand and Prince 1980, doi:10.1016/0771-050X(80)90013-3, table 2; the interpolant is Shampine's, Some practical
    # Runge-Kutta formulas, Mathematics of Computation 46 (1986), doi:10.1090/S0025-5718-1986-0815836-3.
    "dopri5": Tableau(
        order=5,
        nodes=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        stages=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        dense=(
            (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
            (0.0, 0.0, 0.0, 0.0),
            (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
            (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
            (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
            (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
            (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
        ),
    ),
    # Bogacki and Shampine 1989, A 3(2) pair of Runge-Kutta formulas, doi:10.1016/0893-9659(89)90079-7; the cubic through both ends.
    "bosh3": Tableau(
        order=3,
        nodes=(0.0, 1 / 2, 3 / 4, 1.0),
        stages=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
        error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
        dense=((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)),
    ),
}


class Pair:
    """A pair whose coefficients are where the states are, in their precision.

    Args:
        name: of the tableau.
        like: a state.
    """

    def __init__(self, name: str, like: Tensor) -> None:
        tableau = TABLEAUS[name]
        self.order, self.nodes, self.dense = tableau.order, tableau.nodes, tableau.dense
        rows = [*tableau.stages, tableau.error]
        # In one piece: an accelerator is waited for once, not for every row.
        flat = torch.tensor([weight for row in rows for weight in row], dtype=like.dtype, device=like.device)
        *self.stages, self.error = flat.split([len(row) for row in rows])
