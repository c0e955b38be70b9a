"""A folder of pictures and tables, and the page that shows them."""

import dataclasses
import json
import operator

from keras_resnet import plots
from keras_resnet.training import write_atomically

from .command import UsageError
from .files import read_json
from .provenance import origin
from .report import folded, show, table
from .report import origin as where

HEAD = "# Figures"
HOW = """\
Each claim comes from a paper. It is measured as a number and must stay within
its bound. `python recipes/figures.py` made this page from its own result lines,
FIGURE.json, and sets the bounds, the same for all nets.
"""
RELATIONS = {
    "<": operator.lt,
    "at most": operator.le,
    ">": operator.gt,
    "at least": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper as a number."""

    text: str  # names the number
    source: str  # the paper and its section
    value: float  # measured
    relation: str  # of the value to the bound, one of `RELATIONS`
    bound: float
    unit: str = ""
    remark: str = ""  # about the value, such as its interval

    @property
    def holds(self):
        """Whether the value keeps the bound."""
        return bool(RELATIONS[self.relation](self.value, self.bound))

    def row(self):
        """Return the cells of its row in a table."""
        value = f"{self.value:.3g} {self.unit}".rstrip()
        if self.remark:
            value += f" ({self.remark})"
        bound = f"{self.relation} {self.bound:g} {self.unit}".rstrip()
        holds = "yes" if self.holds else "no"
        return [self.text, self.source, bound, value, holds]


def claim_table(claims):
    """Return the table of some claims."""
    head = ["claim", "source", "bound", "measured", "holds"]
    return table(head, [claim.row() for claim in claims])


class Page:
    """The folder of pictures and tables, and its page README.md.

    Args:
        path: `Path` of the folder.
        name: String, the name of the figure.
        settings: Dictionary of JSON values that determine the figure.
        names: The names of all figures in the order of the page.

    Raises:
        UsageError: If the folder holds another page, or this figure with
            other settings.
    """

    def __init__(self, path, name, settings, names):
        self.path, self.name, self.settings = path, name, settings
        self.names = names
        self.pictures, self.tables, self.claims = [], [], []
        page, line = path / "README.md", path / f"{name}.json"
        if page.exists() and not page.read_text("utf-8").startswith(HEAD):
            raise UsageError(
                f"{page} is no page of figures and would be replaced: give "
                "another --output"
            )
        there = read_json(line)["settings"] if line.exists() else settings
        for key, value in settings.items():
            if there.get(key) != value:
                raise UsageError(
                    f"{line} was made with {key} {there.get(key)}; this run "
                    f"would replace it with {value}: give another --output"
                )

    def file(self, name):
        """Make the folder, and return the path of a file in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / name

    def draw(self, name, plot, *args, **kwargs):
        """Save a picture by `keras_resnet.plots.draw`, and print its path."""
        path = self.file(f"{name}.png")
        plots.draw(path, plot, *args, **kwargs)
        self.pictures.append(name)
        print(path)

    def write(self, text, name):
        """Save a table, and print it."""
        path = self.file(f"{name}.md")
        write_atomically(path, text)
        self.tables.append(name)
        show(f"\n{text}\n{path}")

    def claim(self, *args, **kwargs):
        """Add a `Claim` of these arguments."""
        self.claims.append(Claim(*args, **kwargs))

    def finish(self, title, nets):
        """Write the figure's result line, and the page of all figures.

        Args:
            title: String.
            nets: Dictionary from names of nets to their sources and errors.
        """
        if self.claims:
            show(f"\n{claim_table(self.claims)}\n")
        line = {
            "title": title,
            **origin(),
            "settings": self.settings,
            "pictures": self.pictures,
            "tables": self.tables,
            "claims": [
                dataclasses.asdict(claim) | {"holds": claim.holds}
                for claim in self.claims
            ],
            "nets": nets,
        }
        write_atomically(
            self.file(f"{self.name}.json"), json.dumps(line) + "\n"
        )
        self.make_page()

    def make_page(self):
        """Write the page of all figures from their result lines."""
        paths = [self.path / f"{name}.json" for name in self.names]
        lines = [read_json(path) for path in paths if path.exists()]
        holds = [claim["holds"] for line in lines for claim in line["claims"]]
        parts = [f"{HEAD}\n"]
        if holds:
            parts.append(f"{sum(holds)} of {len(holds)} claims hold.\n")
        parts.append(HOW)
        for line in lines:
            parts += self._section(line)
        parts.append("## Nets\n")
        nets = {k: net for line in lines for k, net in line["nets"].items()}
        parts += [f"- {name}: {net['source']}" for name, net in nets.items()]
        write_atomically(self.file("README.md"), "\n".join([*parts, ""]))

    def _section(self, line):
        """Return the parts of the page about one figure."""
        parts = [f"## {line['title']}\n"]
        for claim in line["claims"]:
            del claim["holds"]
        parts += [f"![{n}]({n}.png)\n" for n in line["pictures"]]
        if line["claims"]:
            claims = [Claim(**claim) for claim in line["claims"]]
            parts.append(f"{claim_table(claims)}\n")
        parts += [
            (self.path / f"{n}.md").read_text("utf-8") for n in line["tables"]
        ]
        how = folded("How it was made", f"`{line['command']}`  \n{where(line)}")
        return [*parts, how, ""]
