"""One adapter per engine; nothing outside this folder knows an engine's internals."""
