"""The pieces of an HTML page that needs nothing beside it: tables, figures, sections."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiossl.diagnostics.figures import Picture


@dataclass
class Section:
    """A part of the page: HTML, what is missing from it, and what else to know."""

    title: str
    body: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table(headings: list[str], rows: list[list[str]], *, code: int = -1) -> str:
    """Lay out rows as a table. code: the column whose cells are commands, -1 for none."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = []
    for row in rows:
        cells = (f"<code>{escape(cell)}</code>" if place == code else escape(cell) for place, cell in enumerate(row))
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def figure(picture: Picture, caption: str) -> str:
    """Embed a picture, in the light or dark form that the reader prefers."""
    light, dark = (f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (picture.light, picture.dark))
    source = f'<source srcset="{dark}" media="(prefers-color-scheme: dark)">'
    image = f'<img src="{light}" alt="{escape(caption, quote=True)}">'
    return f"<figure><picture>{source}{image}</picture><figcaption>{escape(caption)}</figcaption></figure>"


def page(title: str, subjects: list[str], sections: list[Section]) -> str:
    """Join sections to a page. subjects: what it is about, below the title."""
    parts = []
    for section in sections:
        lines = [*section.notes, *(f"Not shown: {line}" for line in section.missing)]
        notes = "".join(f'<p class="missing">{escape(line)}</p>' for line in lines)
        parts.append(f"<section><h2>{escape(section.title)}</h2>{''.join(section.body)}{notes}</section>")
    heading = f"<h1>{escape(title)}</h1><p>{escape(', '.join(subjects))}</p>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body><main>{heading}\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #24292f; --faint: #d8dee4; --soft: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ground: #161b22; --ink: #d8dee4; --faint: #363d47; --soft: #9aa4af; } }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--faint); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid var(--faint); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } code { font-size: 0.8rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption, .missing { color: var(--soft); font-size: 0.9rem; }
"""
