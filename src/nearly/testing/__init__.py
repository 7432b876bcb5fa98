"""The contracts that members keep, as checks to run on your own members.

from nearly.testing import check_method
check_method(MyMethod)
"""

from nearly.testing._problems import Problem, reference_problems
from nearly.testing.method_contract import MethodCheck, check_method, method_checks

__all__ = ["MethodCheck", "Problem", "check_method", "method_checks", "reference_problems"]
