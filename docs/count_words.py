"""Print the number of words of each page of the site, without generated outputs and the reference.

python docs/count_words.py
"""

import re
from pathlib import Path

DOCS = Path(__file__).parent
LIMIT = 30_000  # words of all pages together
OUTPUT = re.compile(r"^```text\n.*?^```\n", re.DOTALL | re.MULTILINE)


def words_by_page() -> dict[str, int]:
    """Return the number of words of each page, as `wc -w` counts them, code included."""
    pages = [path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))]
    return {
        str(page): len(OUTPUT.sub("", (DOCS / page).read_text()).split())
        for page in pages
        if page.parts[0] != "maintainers"
    }


if __name__ == "__main__":
    words = words_by_page()
    for page, number in sorted(words.items(), key=lambda item: item[1]):
        print(f"{number:6} {page}")
    print(f"{sum(words.values()):6} in {len(words)} pages, at most {LIMIT}")
