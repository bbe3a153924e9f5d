"""zstd:chunked: a zstd layer of one frame per file or chunk, with its table of contents in a frame that decoders skip."""
