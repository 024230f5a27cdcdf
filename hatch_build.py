"""The description and the URLs of the package on an index, where relative links are broken."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class RepositoryLinks(MetadataHookInterface):
    """Hook that adds URLs and makes links absolute, if `repository` in pyproject.toml is set."""

    def update(self, metadata):
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        url = self.config["repository"].rstrip("/")
        if url:
            text = absolute(text, url)
            metadata["urls"] = {
                "Repository": url,
                "Documentation": f"{url}/blob/main/docs/README.md",
                "Changelog": f"{url}/blob/main/CHANGELOG.md",
                "Issues": f"{url}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text, url):
    """Return Markdown whose links and images lead to the files of a repository."""
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\g<1>{url}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{url}/blob/main/", text)
