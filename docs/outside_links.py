"""Links from docs/ into the rest of the repository, which the site does not hold.

A reader of the repository can follow `[the runs](../results/mini)`; on the site it becomes plain
text with the path behind it. A path that does not exist is a warning, which a strict build refuses.
"""

import logging
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>\.\./[^)#\s]+)(?:#[^)\s]*)?\)")
LOG = logging.getLogger("mkdocs.hooks.outside_links")


def on_page_markdown(markdown: str, page: Any, config: Any, **_more: Any) -> str:
    """Replace the links of a page that leave docs/."""
    docs = Path(config.docs_dir).resolve()
    folder = Path(page.file.abs_src_path).resolve().parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link["path"]).resolve()
        if target.is_relative_to(docs):
            return link[0]
        if not target.exists():
            LOG.warning("%s: nothing at %s", page.file.src_uri, link["path"])
        path = f"`{target.relative_to(docs.parent)}`"
        text = link["text"]
        return path if text.strip("`") in path else f"{text} ({path})"

    return LINK.sub(replaced, markdown)
