"""Layers seen as one image."""

import gzip

from registry_proxy.lazy.image import find, merged
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.index import ZtocIndex
from tests.lazy.layers import tar


def layer(*names: str) -> ZtocIndex:
    with ZtocBuilder() as builder:
        builder.feed(gzip.compress(tar(dict.fromkeys(names, b"x"))))
        return ZtocIndex(builder.finish())


def test_a_file_replaces_a_directory_with_all_in_it() -> None:
    """What lay below a path that is a file now is gone."""
    seen = merged([layer("a/b/c", "ab"), layer("a")])
    assert set(seen) == {"a", "ab"}
    assert find(seen, "/a").layer == 1


def test_a_whiteout_hides_lower_layers_only() -> None:
    """A name that is removed and made anew in one layer is there; an opaque root hides everything below it."""
    assert set(merged([layer("d/old", "keep"), layer(".wh.d", "d/new")])) == {"d/new", "keep"}
    assert set(merged([layer("d/old", "keep"), layer(".wh..wh..opq", "new")])) == {"new"}
