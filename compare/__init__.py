"""Compare optimizers on small problems, every one tuned by the same protocol.

On the command line, `optzoo compare run --quick`; in Python:

    from optzoo.compare import compare

    if __name__ == "__main__":  # the studies run in spawned processes, which import this script again
        result = compare(optimizers=["adamw", "lion", "torch.optim:SGD"], problems=["rosenbrock"], quick=True)
        result.table()
        result.to_json("comparison.json")

Importing this package is cheap: PyTorch, scikit-learn and rich are imported by what needs them.
"""

from .api import compare, list_problems, load
from .datasets import sonnets
from .errors import UsageError
from .results import Comparison, Study, Trial

__all__ = ["Comparison", "Study", "Trial", "UsageError", "compare", "list_problems", "load", "sonnets"]
