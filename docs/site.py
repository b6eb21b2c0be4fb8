"""A hook of MkDocs: files keep the paths that they have in the repository, so links work in both.

Pages outside ``docs/`` are added to those in it, and a notebook is converted to a page.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from traitlets.config import Config

OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "research/*.md")


class Notebook(File):
    """A notebook, as a page whose content is Markdown."""

    def is_documentation_page(self) -> bool:
        """Return True, which MkDocs does for files that end in ``.md``."""
        return True


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site, named from the root of the repository."""
    root = Path(config.config_file_path).parent
    place = (str(root), config.site_dir, config.use_directory_urls)
    named = Files(one for one in files if one.src_dir != config.docs_dir)  # those of the theme
    for one in files:
        if one.src_dir == config.docs_dir:
            named.append(File(f"docs/{one.src_uri}", *place, dest_uri=one.dest_uri))
    for pattern in OUTSIDE:
        for path in root.glob(pattern):
            named.append(File(path.relative_to(root).as_posix(), *place))
    one_output = Config({"CoalesceStreamsPreprocessor": {"enabled": True}})
    exporter = MarkdownExporter(config=one_output)  # type: ignore[no-untyped-call]  # untyped there
    for path in root.glob("notebooks/*.ipynb"):
        known = {"unique_key": path.stem}  # with which the names of its figures begin
        text, found = exporter.from_filename(str(path), known)
        named.append(Notebook.generated(config, f"notebooks/{path.name}", content=text))
        for name, figure in found["outputs"].items():
            named.append(File.generated(config, f"notebooks/{name}", content=figure))
    return named
