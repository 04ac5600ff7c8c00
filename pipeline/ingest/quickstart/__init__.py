"""Real input that every machine has: its own Python installation, as code, as a documentation site, as books.

The standard library and the installed packages are megabytes of well-written code and prose under known licences, on every
machine that can run tokenmill at all. The modules here only read files: nothing of the installation is imported or executed to
read it. `code` gives source files as repositories, `web` serves documentation pages over HTTP and captures them into
WARC files, `books` reads the language reference and other long prose.
"""
