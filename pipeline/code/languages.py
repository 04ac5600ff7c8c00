"""Programming languages by path, and how a comment looks in each: one small table.

Names are those of GitHub's Linguist, because the published filter rules use them. Only the path is looked at, so an
extension that several languages share gets its most frequent one (`.h` C, `.m` Objective-C, `.v` Verilog): cheap and
repeatable, at the price of a few per cent of such files under the wrong name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import LANGUAGE, PATH
from pipeline.stage import Annotate


@dataclass(frozen=True)
class Language:
    """Extensions and file names, lower case, separated by spaces; the marks around a comment of one line."""

    extensions: str
    file_names: str = ""
    comment: tuple[str, str] = ("# ", "")


_SLASHES, _DASHES, _PERCENT, _SEMICOLON = ("// ", ""), ("-- ", ""), ("% ", ""), ("; ", "")
_MARKUP, _STARS = ("<!-- ", " -->"), ("/* ", " */")

LANGUAGES: dict[str, Language] = {
    "Ada": Language("adb ads", "", _DASHES),
    "Assembly": Language("asm s nasm", "", _SEMICOLON),
    "Awk": Language("awk gawk"),
    "Batchfile": Language("bat cmd", "", ("REM ", "")),
    "C": Language("c h", "", _SLASHES),
    "C#": Language("cs csx", "", _SLASHES),
    "C++": Language("cpp cc cxx c++ hpp hh hxx h++ ipp tpp inl", "", _SLASHES),
    "CMake": Language("cmake", "cmakelists.txt"),
    "CSS": Language("css", "", _STARS),
    "Clojure": Language("clj cljs cljc edn", "", ("; ", "")),
    "CoffeeScript": Language("coffee", "cakefile"),
    "Common Lisp": Language("lisp lsp cl", "", _SEMICOLON),
    "Crystal": Language("cr"),
    "Cuda": Language("cu cuh", "", _SLASHES),
    "Cython": Language("pyx pxd pxi"),
    "D": Language("d di", "", _SLASHES),
    "DOT": Language("dot gv", "", _SLASHES),
    "Dart": Language("dart", "", _SLASHES),
    "Dockerfile": Language("dockerfile", "dockerfile containerfile"),
    "Elixir": Language("ex exs", "mix.lock"),
    "Elm": Language("elm", "", _DASHES),
    "Emacs Lisp": Language("el", ".emacs", _SEMICOLON),
    "Erlang": Language("erl hrl", "rebar.config", _PERCENT),
    "F#": Language("fs fsi fsx", "", _SLASHES),
    "Fortran": Language("f f77 f90 f95 f03 f08 for", "", ("! ", "")),
    "GLSL": Language("glsl vert frag geom comp", "", _SLASHES),
    "Go": Language("go", "", _SLASHES),
    "Go Module": Language("", "go.mod go.work", _SLASHES),
    "GraphQL": Language("graphql gql"),
    "Groovy": Language("groovy gradle gvy", "jenkinsfile", _SLASHES),
    "HCL": Language("hcl tf tfvars"),
    "HTML": Language("html htm xhtml", "", _MARKUP),
    "Haskell": Language("hs lhs", "", _DASHES),
    "INI": Language("ini cfg", ".editorconfig .gitconfig", _SEMICOLON),
    "JSON": Language("json geojson webmanifest", ".prettierrc composer.lock", _SLASHES),
    "Java": Language("java", "", _SLASHES),
    "JavaScript": Language("js mjs cjs jsx", "jakefile", _SLASHES),
    "Julia": Language("jl"),
    "Jupyter Notebook": Language("ipynb"),
    "Kotlin": Language("kt kts", "", _SLASHES),
    "Less": Language("less", "", _SLASHES),
    "Lua": Language("lua rockspec", "", _DASHES),
    "M4": Language("m4", "configure.ac"),
    "Makefile": Language("mk mak make", "makefile gnumakefile makefile.am makefile.in kbuild"),
    "Markdown": Language("md markdown mdx mkd", "", _MARKUP),
    "Meson": Language("", "meson.build meson_options.txt"),
    "Nix": Language("nix"),
    "OCaml": Language("ml mli", "", ("(* ", " *)")),
    "OWL": Language("owl", "", _MARKUP),
    "Objective-C": Language("m", "", _SLASHES),
    "Objective-C++": Language("mm", "", _SLASHES),
    "OpenCL": Language("opencl", "", _SLASHES),
    "PHP": Language("php phtml php5", "", _SLASHES),
    "Pascal": Language("pas pp dpr lpr", "", _SLASHES),
    "Perl": Language("pl pm t", "makefile.pl cpanfile"),
    "PowerShell": Language("ps1 psm1 psd1"),
    "Prolog": Language("pro prolog", "", _PERCENT),
    "Protocol Buffer": Language("proto", "", _SLASHES),
    "Puppet": Language("epp", ""),
    "Python": Language("py pyi pyw", "sconstruct sconscript wscript"),
    "R": Language("r rmd", ".rprofile"),
    "Racket": Language("rkt", "", _SEMICOLON),
    "Roff": Language("roff man 1 2 3 4 5 6 7 8", "", ('.\\" ', "")),
    "Ruby": Language("rb rake gemspec ru", "rakefile gemfile podfile vagrantfile"),
    "Rust": Language("rs", "", _SLASHES),
    "SCSS": Language("scss", "", _SLASHES),
    "SMT": Language("smt2 smt", "", _SEMICOLON),
    "SQL": Language("sql ddl dml", "", _DASHES),
    "SVG": Language("svg", "", _MARKUP),
    "Sass": Language("sass", "", _SLASHES),
    "Scala": Language("scala sc sbt", "", _SLASHES),
    "Scheme": Language("scm ss sld", "", _SEMICOLON),
    "Shell": Language("sh bash zsh ksh", "configure .bashrc .zshrc .profile"),
    "Solidity": Language("sol", "", _SLASHES),
    "Starlark": Language("bzl star", "build build.bazel workspace"),
    "Svelte": Language("svelte", "", _MARKUP),
    "Swift": Language("swift", "", _SLASHES),
    "SystemVerilog": Language("sv svh", "", _SLASHES),
    "TOML": Language("toml", "pipfile cargo.lock poetry.lock"),
    "TSX": Language("tsx", "", _SLASHES),
    "Tcl": Language("tcl tk"),
    "TeX": Language("tex sty cls ltx bib", "", _PERCENT),
    "Text": Language("txt", "readme license copying authors changelog news notes todo install"),
    "Thrift": Language("thrift", "", _SLASHES),
    "TypeScript": Language("ts mts cts", "", _SLASHES),
    "VHDL": Language("vhd vhdl", "", _DASHES),
    "Verilog": Language("v vh", "", _SLASHES),
    "Vim Script": Language("vim", ".vimrc", ('" ', "")),
    "Visual Basic .NET": Language("vb", "", ("' ", "")),
    "Vue": Language("vue", "", _MARKUP),
    "XML": Language("xml xsd rng plist wsdl", "", _MARKUP),
    "XSLT": Language("xsl xslt", "", _MARKUP),
    "YAML": Language("yml yaml", ".clang-format .clang-tidy"),
    "Zig": Language("zig", "", _SLASHES),
    "reStructuredText": Language("rst rest", "", (".. ", "")),
}

_BY_EXTENSION = {ext: name for name, one in LANGUAGES.items() for ext in one.extensions.split()}
_BY_FILE_NAME = {file: name for name, one in LANGUAGES.items() for file in one.file_names.split()}


def commented(line: str, language: str | None) -> str:
    """`line` as a comment in `language`; `#` where the language is unknown or has no comments."""
    before, after = LANGUAGES[language].comment if language in LANGUAGES else ("# ", "")
    return before + line + after


def _looked_up(keys: pa.Array, table: Mapping[str, str]) -> pa.Array:
    names = pa.array(table.values(), pa.string())
    return names.take(pc.index_in(keys, value_set=pa.array(table.keys(), keys.type)))


def languages_of(paths: pa.Array) -> pa.Array:
    """string[rows]: the language that each path's file name or extension stands for; null when unknown."""
    names = pc.utf8_lower(pc.replace_substring_regex(paths.cast(pa.large_string()), r"(?s)^.*[/\\]", ""))
    extensions = pc.replace_substring_regex(names, r"(?s)^.*\.", "")
    has_extension = pc.match_substring(names, ".")
    by_extension = _looked_up(pc.if_else(has_extension, extensions, None), _BY_EXTENSION)
    return pc.coalesce(_looked_up(names, _BY_FILE_NAME), by_extension)


class CodeLanguage(Annotate):
    """Sets `language` from the path's file name or extension; null when the table does not know it.

    An unknown path keeps no earlier `language`. Memory: a few columns of file names. Source: extensions and names as in
    GitHub Linguist, the frequent ones.
    """

    kind: ClassVar[str] = "code_language"

    def needs(self) -> tuple[pa.Field, ...]:
        return (PATH,)

    def adds(self) -> tuple[pa.Field, ...]:
        return (LANGUAGE,)

    def columns(self, docs: pa.RecordBatch) -> Mapping[str, pa.Array]:
        return {LANGUAGE.name: languages_of(docs[PATH.name])}
