"""Hooks of the documentation site: pages that are generated, and links that leave this folder.

Pages are written to be read in the repository too, where links lead to source files. The site has a page for each file
that is linked; the commands' help, the changelog, the citation and the notebook are taken from where they are.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import posixpath
import re
import sys
from pathlib import Path
from unittest import mock

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]*)")
"""Target of a Markdown link that goes up, without its anchor."""
FROM_ROOT = re.compile(r"(?<=\]\()(?:docs/)?((?!https?:)[^)#\s]+)")
"""Target of a Markdown link in a page at the root of the repository."""
NOTEBOOK = "examples/video_to_policy.ipynb"
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages: dict[str, str | bytes] = {
        "changelog.md": _changelog(),
        "citation.md": _citation(),
        "reference/commands.md": _commands(),
        **_notebook(),
    }
    texts = {file.src_uri: (Path(config.docs_dir) / file.src_uri).read_text() for file in files.documentation_pages()}
    for uri, text in [*texts.items(), *pages.items()]:
        links = LINK.findall(text) if isinstance(text, str) else []
        for target in filter(None, (_outside(uri, link) for link in links)):
            if target != NOTEBOOK:
                pages[f"source/{target}.md"] = _source(ROOT / target)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to source files to their pages."""

    def replaced(match: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, match[1])
        if target is None:
            return match[1]
        leads_to = "notebook.md" if target == NOTEBOOK else f"source/{target}.md"
        return posixpath.relpath(leads_to, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(replaced, markdown)


def _outside(page: str, link: str) -> str | None:
    """Return the file or folder of the repository that a link of a page leads to; None for one of the documentation."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith("docs/") or not (ROOT / target).exists() else target


def _source(path: Path) -> str:
    """Return a page that shows a file, or lists a folder."""
    name = path.relative_to(ROOT)
    if path.is_dir():
        listing = "\n".join(f"- `{child.name}`" for child in sorted(path.iterdir()) if child.name[0] not in "._")
        return f"# {name}/\n\n{listing}\n"
    fence = "`" * 8
    return f'# {name}\n\n{fence} {{.{LANGUAGES.get(path.suffix, "text")} linenums="1"}}\n{path.read_text()}\n{fence}\n'


def _changelog() -> str:
    """Return the changelog as a page of this folder."""

    def moved(match: re.Match[str]) -> str:
        return match[1] if match[0].startswith("docs/") else f"../{match[0]}"

    return FROM_ROOT.sub(moved, (ROOT / "CHANGELOG.md").read_text())


def _citation() -> str:
    """Return a page that says how to cite paper and software."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = found["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    return f"""# Citation

{found["message"]}

```bibtex
@inproceedings{{prelar,
  title     = {{{paper["title"]}}},
  author    = {{{authors}}},
  booktitle = {{{paper["collection-title"]}}},
  year      = {{{paper["year"]}}}
}}

@software{{prelar_ray,
  title   = {{{found["title"]}: {found["abstract"]}}},
  author  = {{{found["authors"][0]["name"]}}},
  version = {{{found["version"]}}},
  note    = {{commit as recorded in run.json}}
}}
```

[CITATION.cff](../CITATION.cff) is the same for machines.
"""


def _notebook() -> dict[str, str | bytes]:
    """Return the notebook as a page, with its pictures."""
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in json.loads((ROOT / NOTEBOOK).read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text.replace("](../docs/", "]("))
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif picture := output.get("data", {}).get("image/png"):
                name = f"images/notebook-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(picture))
                parts.append(f"![what the cell draws]({name})")
    return {"notebook.md": "\n\n".join(parts) + "\n", **pictures}


def _commands() -> str:
    """Return a page with what every command says of itself."""
    sys.path.insert(0, str(ROOT))
    commands = importlib.import_module("prelar_ray.commands.cli").COMMANDS
    parts = ["# Commands\n", "What `--help` prints. Settings have [a page of their own](../settings.md).\n"]
    for name, line in commands.items():
        module = importlib.import_module(f"prelar_ray.commands.{name.replace('-', '_')}")
        parts.append(f"## prelar-ray {name}\n\n{line[0].upper()}{line[1:]}.\n\n```text\n{_help(module.main)}```\n")
    return "\n".join(parts)


def _help(main: object) -> str:
    with (
        mock.patch.dict(os.environ, COLUMNS="100"),
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.suppress(SystemExit),
    ):
        main(["--help"])  # type: ignore[operator]
    return said.getvalue()
