"""Lightning: callbacks and the command line, for ``lightning`` 2.6 or newer (``pip install 'optzoo[lightning]'``)."""

from .._requirements import require

require("lightning", "lightning", __name__)
require("jsonargparse", "lightning", __name__)  # which Lightning does without until its command line is used

from .adoption import AdoptCallback as AdoptCallback  # noqa: E402
from .cli import OptimizerCLI as OptimizerCLI  # noqa: E402
from .schedules import GradNormCallback as GradNormCallback  # noqa: E402
from .schedules import ScheduleCallback as ScheduleCallback  # noqa: E402
from .update_norms import UpdateNormMonitor as UpdateNormMonitor  # noqa: E402
from .weights import AveragedWeightsCallback as AveragedWeightsCallback  # noqa: E402
from .weights import EvaluationWeightsCallback as EvaluationWeightsCallback  # noqa: E402
from .weights import SlowWeightsCallback as SlowWeightsCallback  # noqa: E402
