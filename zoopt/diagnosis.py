"""A look inside a strategy that has a model: what it believes, how well that holds, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Array = np.ndarray[Any, Any]

_BAND = 1.96  # standard deviations on either side: 95 % of a normal law


@dataclass(frozen=True)
class Slice:
    """The model along one variable, through a point.

    Attributes:
        name: The variable, with its position where it has several columns.
        values: Its values in problem units, or choices, ``(k,)``.
        mean: Expected objective in the user's direction, ``(k,)``.
        sd: Its standard deviation, ``(k,)``.
        acquisition: What an evaluation there promises, ``(k,)``, the larger the better; None where there is no such function.
        at: The value at the point.
    """

    name: str
    values: list[Any]
    mean: Array
    sd: Array
    acquisition: Array | None
    at: Any


@dataclass(frozen=True)
class LeftOut:
    """Each result as the others predict it.

    Attributes:
        told: Results in the user's direction, ``(n,)``.
        mean: Predictions, ``(n,)``.
        sd: Their standard deviations, noise included, ``(n,)``.
    """

    told: Array
    mean: Array
    sd: Array

    @property
    def errors(self) -> Array:
        """Errors in standard deviations, ``(n,)``: standard normal where the model is right."""
        return np.asarray((self.told - self.mean) / self.sd)

    def coverage(self, level: float) -> float:
        """Part of the results inside the central interval that should hold ``level`` of them."""
        return float(np.mean(np.abs(self.errors) <= NormalDist().inv_cdf(0.5 + level / 2)))


@dataclass(frozen=True)
class Timing:
    """Seconds that one ask took: for the fit to ``points`` results, and for the search of the acquisition function."""

    points: int
    fit: float
    acquisition: float


@dataclass(frozen=True)
class Diagnosis:
    """What a model says of itself.

    Attributes:
        slices: The model along each variable, through the point recommended.
        left_out: Results as the others predict them; None where the model cannot say.
        importance: How much each variable matters, by name, adding up to 1: how little outcomes at its ends have in common in the model,
            on a logarithmic scale. Empty where the model cannot say.
        timings: What each ask since the study was opened took.
        facts: What else there is to say, by name.
    """

    slices: list[Slice]
    left_out: LeftOut | None
    importance: dict[str, float]
    timings: list[Timing]
    facts: Mapping[str, float | str] = field(default_factory=dict)

    def figure(self) -> Figure:
        """All of it in one figure of plotly."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        panels = [f"{s.name}" for s in self.slices]
        extra = ["left out" if self.left_out is not None else "", "importance" if self.importance else "", "seconds of an ask"]
        titles = [*panels, *filter(None, extra)]
        columns = min(3, len(titles))
        rows = -(-len(titles) // columns)
        chart: Any = make_subplots(rows=rows, cols=columns, subplot_titles=titles, specs=[[{"secondary_y": True}] * columns] * rows)
        places = iter((1 + i // columns, 1 + i % columns) for i in range(len(titles)))

        def add(trace: Any, place: tuple[int, int], second: bool = False) -> None:
            chart.add_trace(trace, row=place[0], col=place[1], secondary_y=second)

        for number, part in enumerate(self.slices):
            place, first = next(places), number == 0
            label = {"showlegend": first}
            high, low = part.mean + _BAND * part.sd, part.mean - _BAND * part.sd
            if isinstance(part.values[0], str | bool):
                names = [str(value) for value in part.values]
                bars = {"array": _BAND * part.sd, "color": _BLUE}
                add(go.Scatter(x=names, y=part.mean, error_y=bars, mode="markers", name="expected", marker_color=_BLUE, **label), place)
            else:
                edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
                add(go.Scatter(x=part.values, y=high, **edge), place)
                add(go.Scatter(x=part.values, y=low, fill="tonexty", fillcolor=_PALE, **edge), place)
                add(go.Scatter(x=part.values, y=part.mean, mode="lines", name="expected", line_color=_BLUE, **label), place)
                chart.add_vline(x=part.at, line_dash="dot", line_color="grey", row=place[0], col=place[1])
            if part.acquisition is not None:
                line = {"color": _ORANGE, "dash": "dot"}
                x = [str(v) for v in part.values] if isinstance(part.values[0], str | bool) else part.values
                add(go.Scatter(x=x, y=part.acquisition, mode="lines", name="promise (right axis)", line=line, **label), place, True)
        if self.left_out is not None:
            place, told = next(places), self.left_out
            ends = [float(told.told.min()), float(told.told.max())]
            bars = {"array": _BAND * told.sd, "color": _PALE}
            add(go.Scatter(x=told.told, y=told.mean, error_y=bars, mode="markers", marker_color=_BLUE, showlegend=False), place)
            add(go.Scatter(x=ends, y=ends, mode="lines", line={"color": "grey", "dash": "dot"}, showlegend=False), place)
            chart.update_xaxes(title_text="told", row=place[0], col=place[1])
            chart.update_yaxes(title_text="predicted", row=place[0], col=place[1], secondary_y=False)
        if self.importance:
            order = sorted(self.importance.items(), key=lambda item: item[1])
            add(
                go.Bar(x=[v for _, v in order], y=[k for k, _ in order], orientation="h", marker_color=_BLUE, showlegend=False),
                next(places),
            )
        place = next(places)
        points = [timing.points for timing in self.timings]
        add(go.Scatter(x=points, y=[t.fit for t in self.timings], mode="lines", name="fit", line_color=_GREEN), place)
        add(go.Scatter(x=points, y=[t.acquisition for t in self.timings], mode="lines", name="search", line_color=_RED), place)
        chart.update_xaxes(title_text="results", row=place[0], col=place[1])
        chart.update_yaxes(showgrid=False, secondary_y=True)
        said = [f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}" for name, value in self.facts.items()]
        title = {"text": "<br>".join("; ".join(said[i : i + 4]) for i in range(0, len(said), 4)), "font": {"size": 13}}
        chart.update_layout(height=280 * rows + 120, template="plotly_white", title=title)
        return chart

    def save(self, path: str | Path) -> Path:
        """Write the figure to a self-contained HTML file, which needs no network."""
        path = Path(path)
        self.figure().write_html(str(path), include_plotlyjs=True, full_html=True)
        return path


_BLUE, _PALE, _ORANGE, _GREEN, _RED = "#1f5fa8", "rgba(31, 95, 168, 0.2)", "#c96a00", "#2a7f3f", "#b3261e"
