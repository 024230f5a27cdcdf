"""Print the number of words of each page, without generated outputs and the reference.

python docs/count_words.py
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
OUTPUT = re.compile(r"^```text\n.*?^```\n", re.DOTALL | re.MULTILINE)


def count_words(page: Path) -> int:
    """Return the number of words of a page, as `wc -w` counts them, code included."""
    return len(OUTPUT.sub("", page.read_text()).split())


if __name__ == "__main__":
    pages = sorted(DOCS.rglob("*.md"))
    for_maintainers = {page for page in pages if page.parent.name == "maintainers"}
    parts = {"site": set(pages) - for_maintainers, "maintainers": for_maintainers}
    for name, part in parts.items():
        words = {str(page.relative_to(DOCS)): count_words(page) for page in part}
        for page, number in sorted(words.items(), key=lambda item: item[1]):
            print(f"{number:6} {page}")
        print(f"{sum(words.values()):6} in {len(words)} pages: {name}\n")
