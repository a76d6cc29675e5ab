"""Tables as text, by rich."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDEST = 400  # columns of a table that is not wrapped


def text_table(head: Sequence[str], lines: Sequence[Sequence[str]], texts: Sequence[int] = ()) -> str:
    """Columns of equal width under a head: the first and `texts` to the left, figures to the right; none is cut."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, title in enumerate(head):
        table.add_column(title, justify="left" if place == 0 or place in texts else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console = Console(width=WIDEST, no_color=True, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())
