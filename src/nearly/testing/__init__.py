"""The contracts that members keep, as checks to run on your own members.

from nearly.testing import check_method, check_optimizer, check_solver
check_method(MyMethod)
check_optimizer(MyOptimizer)
check_solver(my_solver)
"""

from nearly.testing._checks import Check
from nearly.testing._problems import Problem, reference_problems
from nearly.testing.method_contract import check_method, method_checks
from nearly.testing.optimizer_contract import check_optimizer, optimizer_checks
from nearly.testing.optimizer_problems import OptimizerProblem, optimizer_problems
from nearly.testing.second_device import Traffic, elsewhere
from nearly.testing.solver_contract import check_solver, solver_checks
from nearly.testing.solver_problems import SolverProblem, solver_problems

__all__ = [
    "Check",
    "OptimizerProblem",
    "Problem",
    "SolverProblem",
    "Traffic",
    "check_method",
    "check_optimizer",
    "check_solver",
    "elsewhere",
    "method_checks",
    "optimizer_checks",
    "optimizer_problems",
    "reference_problems",
    "solver_checks",
    "solver_problems",
]
