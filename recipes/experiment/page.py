"""A folder of pictures and tables, and the page that shows them."""

import dataclasses
import json
import operator

from keras_resnet import plots
from keras_resnet.training import write_atomically

from .command import UsageError
from .files import read_json
from .provenance import origin
from .report import origin as where
from .report import table

HEAD = """\
# Figures

Made by `python recipes/figures.py` from its own result lines, FIGURE.json. The
claims are those of the papers, as numbers with the bounds that they must keep;
recipes/figures.py sets the bounds, the same for all nets.
"""
RELATIONS = {
    "<": operator.lt,
    "at most": operator.le,
    ">": operator.gt,
    "at least": operator.ge,
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper as a number.

    Attributes:
        text: String that names the number.
        source: String, the paper and its section.
        value: Float that was measured.
        relation: One of `RELATIONS`.
        bound: Float, which `value` must be related to.
        unit: String. Defaults to none.
        remark: String about the value, such as its interval.
    """

    text: str
    source: str
    value: float
    relation: str
    bound: float
    unit: str = ""
    remark: str = ""

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
        return [
            self.text,
            self.source,
            bound,
            value,
            "yes" if self.holds else "no",
        ]


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
        names: Sequence of strings, the figures in the order of the page.

    Raises:
        UsageError: If the folder holds another page, or this figure of other
            settings.
    """

    def __init__(self, path, name, settings, names):
        self.path, self.name, self.settings = path, name, settings
        self.names = names
        self.pictures, self.tables, self.claims = [], [], []
        page = self.path / "README.md"
        if page.exists() and not page.read_text("utf-8").startswith(
            HEAD.splitlines()[0]
        ):
            raise UsageError(
                f"{page} is no page of figures and would be replaced: give "
                "another --output"
            )
        line = self.path / f"{name}.json"
        if not line.exists():
            return
        there = read_json(line)["settings"]
        for key, value in settings.items():
            if there.get(key) != value:
                raise UsageError(
                    f"{line} is of {key} {there.get(key)}, which would be "
                    f"replaced by {value}: give another --output"
                )

    def save(self, figure, name):
        """Save a picture, whole or not at all, and say where."""
        self.path.mkdir(parents=True, exist_ok=True)
        plots.save(figure, self.path / f"{name}.png")
        self.pictures.append(name)
        print(self.path / f"{name}.png")

    def write(self, text, name):
        """Save a table, and show it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / f"{name}.md", text)
        self.tables.append(name)
        print(f"\n{text}\n{self.path / name}.md")

    def claim(self, *args, **kwargs):
        """Keep a `Claim` of these arguments."""
        self.claims.append(Claim(*args, **kwargs))

    def finish(self, title, nets):
        """Leave the figure's result line, and the page of all figures.

        Args:
            title: String.
            nets: Dictionary from names of nets to where they come from.
        """
        if self.claims:
            print(f"\n{claim_table(self.claims)}\n")
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
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"{self.name}.json"
        write_atomically(path, json.dumps(line) + "\n")
        write_atomically(self.path / "README.md", self._page())

    def _page(self):
        """Return the page of all figures that the folder has lines of."""
        parts, nets = [HEAD], {}
        for name in self.names:
            path = self.path / f"{name}.json"
            if path.exists():
                line = read_json(path)
                parts += self._section(line)
                nets |= line["nets"]
        parts.append("## Nets\n")
        parts += [f"- {name}: {net['source']}" for name, net in nets.items()]
        return "\n".join([*parts, ""])

    def _section(self, line):
        """Return the lines of the page about one figure."""
        parts = [f"## {line['title']}\n"]
        if line["claims"]:
            claims = [
                Claim(**{k: v for k, v in claim.items() if k != "holds"})
                for claim in line["claims"]
            ]
            parts.append(f"{claim_table(claims)}\n")
        parts += [
            (self.path / f"{n}.md").read_text("utf-8") for n in line["tables"]
        ]
        parts += [f"![{n}]({n}.png)\n" for n in line["pictures"]]
        return [*parts, f"`{line['command']}`  \n{where(line)}", ""]
