"""What is wrong with a picture: text that is cut."""

from matplotlib.axes import Axes
from matplotlib.text import Text


def cut(figure):
    """Texts that reach beyond the figure."""
    figure.canvas.draw()
    frame, found = figure.bbox, []
    undrawn = {id(label) for ax in figure.findobj(Axes) for label in _beyond(ax)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in undrawn:
            box = text.get_window_extent()
            if min(box.x0, box.y0) < -1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1:
                found.append(text.get_text())
    return found


def _beyond(ax):
    """Labels of ticks outside the limits, which are never drawn."""
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)
