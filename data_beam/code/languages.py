"""The language of a file: what its metadata says, else what its name says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Our name (tree-sitter-language-pack's) -> extensions, as in Linguist where one language has by far the most files.
EXTENSIONS: dict[str, str] = {
    "bash": "sh bash zsh ksh",
    "c": "c h",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ ipp inl",
    "csharp": "cs csx",
    "css": "css",
    "cuda": "cu cuh",
    "dart": "dart",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "fortran": "f90 f95 f03 f08",
    "go": "go",
    "haskell": "hs",
    "html": "html htm xhtml",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json",
    "julia": "jl",
    "kotlin": "kt kts",
    "lua": "lua",
    "markdown": "md markdown",
    "ocaml": "ml",
    "perl": "pl pm",
    "php": "php phtml",
    "python": "py pyi pyw",
    "r": "r",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc",
    "scss": "scss",
    "sql": "sql",
    "swift": "swift",
    "text": "txt",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "xml": "xml xsd svg rng wsdl",
    "xslt": "xsl xslt",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_EXTENSION = {extension: language for language, names in EXTENSIONS.items() for extension in names.split()}
# Names as data sets write them, in lower case, where they are not ours: Linguist's, The Stack's folders.
_ALIASES = {
    "c#": "csharp",
    "c-sharp": "csharp",
    "c++": "cpp",
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "py": "python",
    "python3": "python",
    "sh": "bash",
    "shell": "bash",
    "ts": "typescript",
    "rmarkdown": "markdown",
    "yml": "yaml",
}
# The Stack: `lang` and `ext` (1), `language` and `extension` (2); ours first.
_LANGUAGE_KEYS = ("programming_language", "lang")
_PATH_KEYS = ("path", "max_stars_repo_path", "file_path", "filename")
_EXTENSION_KEYS = ("ext", "extension")


def language_of(metadata: Mapping[str, Any]) -> str | None:
    """Our name of the language; of an unknown language its own name in lower case; None if nothing says.

    `metadata.language` counts only where it names one of our languages: for prose it is a natural language's code.
    """
    for key in _LANGUAGE_KEYS:
        if isinstance(name := metadata.get(key), str) and name:
            return normal(name)
    if isinstance(name := metadata.get("language"), str) and (known := normal(name)) in EXTENSIONS and known != "r":
        return known
    for key in _EXTENSION_KEYS:
        if isinstance(extension := metadata.get(key), str) and extension.lower().lstrip(".") in _BY_EXTENSION:
            return _BY_EXTENSION[extension.lower().lstrip(".")]
    for key in _PATH_KEYS:
        if isinstance(path := metadata.get(key), str) and (extension := file_name(path).rpartition(".")[2].lower()):
            if extension in _BY_EXTENSION:
                return _BY_EXTENSION[extension]
    return None


def normal(name: str) -> str:
    name = name.strip().lower().replace(" ", "-")
    return _ALIASES.get(name, name)


def path_of(metadata: Mapping[str, Any]) -> str:
    return next((path for key in _PATH_KEYS if isinstance(path := metadata.get(key), str)), "")


def file_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
