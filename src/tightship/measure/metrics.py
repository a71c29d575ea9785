"""The table of metrics. Adding one is one row here; `package.module:function` is a row of the user's own.

All are scores of which higher is better, so that a drop is source minus candidate in the metric's own unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tightship.core.calling import import_function, is_function_name
from tightship.core.table import Table
from tightship.errors import UsageError
from tightship.measure.graders import Accuracy, Cosine, Error, Grader, KullbackLeibler, MacroF1, UserMetric, macro_f1

__all__ = ["METRICS", "Metric", "metric_named"]

Needs = Literal["labels", "source", "either", "nothing"]


@dataclass(frozen=True)
class Metric:
    """How good outputs are: compared with labels or with the outputs of the source (`needs`; `either` prefers labels).

    `unit` is what a drop is measured in, `start` makes the grader of one model (told whether there are labels), and
    `whole` computes the score of the whole set where items have none of their own.
    """

    name: str
    needs: Needs
    unit: str
    start: Callable[[bool], Grader]
    whole: Callable[..., Any] | None = None

    def uses_source(self, labelled: bool) -> bool:
        """Whether outputs are compared with those of the source."""
        return self.needs == "source" or (self.needs == "either" and not labelled)


METRICS: Table[Metric] = Table(
    "metric",
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", "labels", "fraction of the items", lambda labelled: Accuracy()),
            Metric("f1", "labels", "macro F1", lambda labelled: MacroF1(), macro_f1),
            Metric("mse", "either", "R^2: squared error over variance", Error),
            Metric("cosine", "source", "mean cosine similarity", lambda labelled: Cosine()),
            Metric("kl", "source", "nats per item", lambda labelled: KullbackLeibler()),
        )
    },
)


def metric_named(name: str) -> Metric:
    """Return a metric of the table, or the user's where `name` reads as `package.module:function`.

    The function takes outputs by name, each [items, ...], and labels [items, ...] or None, and returns one score per
    item [items] or one number for all; higher is better. Raises `UsageError` where there is no such metric.
    """
    if not is_function_name(name):
        return METRICS[name]
    function = import_function(name, UsageError)
    return Metric(name, "nothing", "the metric's own", lambda labelled: UserMetric(name, function), function)
