"""Check the built site: a page for each public name, and no request to other hosts.

mkdocs build --strict && python docs/check_site.py
"""

import re
import sys
from pathlib import Path

from site_pages import ROOT, public_names, scripts

SITE = ROOT / "site"
# Addresses that a browser loads by itself: scripts, styles, fonts, images, frames, but no links.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|preconnect|icon|manifest|modulepreload))"
    r"[^>]*?\bhref=[\"']?([^\"'\s>]+)"
)
LOADED_BY_STYLE = re.compile(r"url\([\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
OTHER_HOST = re.compile(r"(?:https?:)?//")


def requests_to_other_hosts(path: Path) -> list[str]:
    """Return the addresses on other hosts that a page or a style sheet loads."""
    pattern = LOADED if path.suffix == ".html" else LOADED_BY_STYLE
    found = [first or second for first, second in pattern.findall(path.read_text())]
    return [address for address in found if OTHER_HOST.match(address)]


def main() -> int:
    """Print the problems, or the number of pages; return the exit status."""
    pages = sorted(SITE.rglob("*.html"))
    names = [name for group in public_names().values() for name in group]
    expected = [f"reference/{name}" for name in names]
    expected += [f"examples/{path.with_suffix('')}" for path in scripts()]
    problems = [
        f"no page {page}"
        for page in expected
        if not (SITE / page / "index.html").exists()
    ]
    for path in (*pages, *SITE.rglob("*.css")):
        problems += [
            f"{path}: loads {address}" for address in requests_to_other_hosts(path)
        ]
    print(
        "\n".join(problems)
        or f"{len(pages)} pages, one for each of {len(names)} public names"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
