"""eStargz copies of ordinary layers and images (stargz-snapshotter docs/estargz.md).

``layer.convert_layer`` makes the copy of one layer, ``image.rewrite_image`` and ``image.rewrite_index`` are the manifests and configs
that go with such layers. Nothing here fetches, stores or schedules; whoever converts brings the bytes and a place for the copy.
"""
