"""Layers that can be read file by file: indexes made for ordinary layers, and readers of the formats that carry their own."""
