"""eStargz: a gzip layer of one member per file or chunk, with its table of contents at its end."""
