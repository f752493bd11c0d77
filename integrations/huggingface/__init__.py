"""Hugging Face transformers' Trainer: callbacks and schedules (``pip install 'optzoo[huggingface]'``)."""

from .._requirements import require

require("transformers", "huggingface", __name__)

from .adoption import AdoptMixin as AdoptMixin  # noqa: E402
from .schedules import ScheduleMixin as ScheduleMixin  # noqa: E402
from .update_norms import UpdateNormCallback as UpdateNormCallback  # noqa: E402
from .weights import EvaluationWeightsMixin as EvaluationWeightsMixin  # noqa: E402
